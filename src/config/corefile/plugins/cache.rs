//! The plugin `cache`: TTLs, prefetch and stale answers of the routes.

use figment::value::Value;

use super::no_option;
use crate::config::corefile::draft::{
    Draft,
    LineVerdict::{Differs, NoCounterpart, Taken},
    seconds,
};
use crate::config::corefile::forward::duration_ms;
use crate::config::corefile::server::{CacheKind, CachePlugin, DraftBlock};
use crate::config::corefile::syntax::Directive;
use crate::config::corefile::zones::zones as zones_of;

pub(super) fn cache(draft: &mut Draft, server: &mut DraftBlock<'_>, directive: &Directive) {
    let mut arguments = &directive.arguments[..];
    let mut most = None;
    if let Some((first, rest)) = arguments.split_first()
        && let Ok(ttl) = first.text.parse::<u64>()
    {
        most = Some(ttl);
        arguments = rest;
    }
    let zones = arguments
        .iter()
        .flat_map(|word| zones_of(&word.text))
        .collect();
    let mut read = CacheOptions {
        positive: most.unwrap_or(3_600),
        negative: most.unwrap_or(1_800),
        ..CacheOptions::default()
    };
    for option in &directive.block {
        read.option(draft, option);
    }
    let (positive, negative) = (read.positive, read.negative);
    let mut options = vec![
        ("max_ttl", seconds(positive)),
        ("max_negative_ttl", seconds(negative)),
    ];
    options.extend(read.least.map(|least| ("min_ttl", seconds(least))));
    let mut note =
        format!("cache.max_ttl: {positive}s and max_negative_ttl: {negative}s on the routes");
    if let Some(word) = arguments
        .iter()
        .find(|word| duration_ms(&word.text).is_some())
    {
        note = format!(
            "{note}; {} is taken as a zone, there too: a TTL has no unit",
            word.text
        );
    }
    if read.least.is_none() {
        note += "; TTLs under 5 s are kept as they are, there for 5 s";
    }
    if read.stale.is_empty() {
        note += "; stale answers are served in an outage, for a day: cache.stale.max_age: 0s turns that off";
    }
    draft.remark(directive, Differs, note);
    server.cache = Some(CachePlugin {
        zones,
        options,
        stale: read.stale,
        disabled: read.disabled,
    });
}

#[derive(Default)]
struct CacheOptions {
    positive: u64,
    negative: u64,
    least: Option<u64>,
    stale: Vec<(&'static str, Value)>,
    disabled: Vec<(CacheKind, Vec<String>)>,
}

impl CacheOptions {
    fn option(&mut self, draft: &mut Draft, option: &Directive) {
        let place = &option.name.place;
        let texts = option.texts();
        match option.name.text.as_str() {
            kind @ ("success" | "denial") => {
                let ttl = texts.get(1).and_then(|text| text.parse().ok());
                let least = texts.get(2).and_then(|text| text.parse().ok());
                if kind == "success" {
                    self.positive = ttl.unwrap_or(self.positive);
                    self.least = least.or(self.least);
                } else {
                    self.negative = ttl.unwrap_or(self.negative);
                }
                draft.remark(
                    option,
                    Differs,
                    "the size is bounded in bytes: cache.max_size, 64MiB for all",
                );
            }
            "prefetch" => {
                if let Some(hits) = draft.parsed::<u64>(option, 0, "a number of queries") {
                    draft.set(&["cache", "prefetch", "hits"], hits.min(255), place);
                }
                let percent = texts
                    .iter()
                    .find_map(|text| text.strip_suffix('%')?.parse::<u64>().ok());
                if let Some(percent) = percent {
                    draft.set(&["cache", "prefetch", "percent"], percent, place);
                }
                draft.remark(
                    option,
                    Differs,
                    "cache.prefetch, for all zones; hits count over the life of an entry",
                );
            }
            "serve_stale" => self.stale(draft, option),
            "servfail" => {
                if let Some(time) = texts.first().and_then(|text| duration_ms(text)) {
                    let time = seconds((time / 1_000).clamp(1, 300));
                    draft.set(&["cache", "failure_max"], time.clone(), place);
                    draft.set(&["cache", "failure_min"], time, place);
                }
                draft.remark(
                    option,
                    Differs,
                    "cache.failure_min and failure_max, for all zones, from 1 s to 5 m",
                );
            }
            "disable" => self.disable(draft, option),
            "keepttl" => draft.remark(option, NoCounterpart, "clients see TTLs go down"),
            "serve_stale_policy" => draft.remark(
                option,
                NoCounterpart,
                "stale_on of a route keeps answers that a server denies",
            ),
            _ => no_option(draft, "cache", option),
        }
    }

    fn disable(&mut self, draft: &mut Draft, option: &Directive) {
        let kind = match option.texts().first() {
            Some(&"success") => CacheKind::Success,
            Some(&"denial") => CacheKind::Denial,
            Some(_) => return draft.unexpected(&option.arguments[0], "success or denial"),
            None => {
                let _ = draft.argument(option, 0, "success or denial");
                return;
            }
        };
        let zones = option.arguments[1..].iter();
        let zones = zones.flat_map(|word| zones_of(&word.text)).collect();
        self.disabled.push((kind, zones));
        draft.remark(
            option,
            Taken,
            "max_ttl or max_negative_ttl: 0s; both: cache: off",
        );
    }

    fn stale(&mut self, draft: &mut Draft, option: &Directive) {
        let texts = option.texts();
        let age = texts
            .first()
            .and_then(|text| duration_ms(text))
            .unwrap_or(3_600_000);
        let verify = texts.contains(&"verify");
        self.stale = vec![
            ("max_age", seconds(age / 1_000)),
            ("after", if verify { "500ms".into() } else { "0s".into() }),
        ];
        draft.remark(
            option,
            Differs,
            "cache.stale of the routes; the TTL of stale answers is 30 s, there 0",
        );
    }
}
