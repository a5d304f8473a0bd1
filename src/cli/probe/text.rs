//! A diagnosis as text: a table of servers, the answers for each name, and the findings.

use std::fmt::Write as _;

use crate::diagnosis::report::{
    Agreement, ClientReport, Diagnosis, EdnsReport, Finding, GroupReport, Health, HttpsReport,
    Medium, NameAnswer, NameReport, NameResult, ServerReport, TransportReport,
};

/// Whether escape codes may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// With colours.
    Coloured,
    /// Text alone.
    Plain,
}

/// The style of a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextTone {
    Normal,
    Strong,
    Faint,
    Good,
    Sick,
    Bad,
}

impl Style {
    fn paint(self, tone: TextTone, text: &str) -> String {
        // ECMA-48 §8.3.117 (SGR).
        let code = match tone {
            _ if self == Self::Plain => return text.to_owned(),
            TextTone::Normal => return text.to_owned(),
            TextTone::Strong => 1,
            TextTone::Faint => 2,
            TextTone::Good => 32,
            TextTone::Sick => 33,
            TextTone::Bad => 31,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// All of it.
pub(super) fn render(diagnosis: &Diagnosis, style: Style) -> String {
    let mut out = String::new();
    for group in &diagnosis.groups {
        group_table(group, style, &mut out);
    }
    for name in &diagnosis.names {
        name_lines(name, style, &mut out);
    }
    for finding in &diagnosis.findings {
        finding_lines(finding, style, &mut out);
    }
    let (tone, text) = verdict(diagnosis);
    line(&mut out, &style.paint(tone, &text));
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

fn verdict(diagnosis: &Diagnosis) -> (TextTone, String) {
    let seconds = diagnosis.took.as_secs_f64();
    let count = diagnosis.findings.len();
    let findings = if count == 1 { "finding" } else { "findings" };
    match diagnosis.verdict {
        Health::Healthy => (TextTone::Good, format!("healthy; asked for {seconds:.1} s")),
        Health::Degraded => (
            TextTone::Sick,
            format!("degraded: {count} {findings}; asked for {seconds:.1} s"),
        ),
        Health::Unusable => (
            TextTone::Bad,
            format!("unusable: {count} {findings}; asked for {seconds:.1} s"),
        ),
    }
}

/// A cell of a table.
struct TextCell(TextTone, String);

fn cell(text: impl Into<String>) -> TextCell {
    TextCell(TextTone::Normal, text.into())
}

/// Writes rows with their columns below each other; the last column is as wide as it is.
fn table(rows: &[Vec<TextCell>], style: Style, out: &mut String) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|TextCell(_, text)| text.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        let mut text = String::from("  ");
        for (column, TextCell(tone, content)) in row.iter().enumerate() {
            text += &style.paint(*tone, content);
            if column + 1 < row.len() {
                let used = content.chars().count();
                text += &" ".repeat(widths[column] - used + 2);
            }
        }
        line(out, &text);
    }
    out.push('\n');
}

fn group_table(group: &GroupReport, style: Style, out: &mut String) {
    let zones = match &group.zones[..] {
        [] => "no route leads to it".to_owned(),
        zones => zones.join(" "),
    };
    let head = style.paint(TextTone::Strong, &group.group);
    line(out, &format!("{head}: {zones}; asked for {}", group.probe));
    let titles = [
        "server",
        "transport",
        "answered",
        "ms min/median/max",
        "answer",
    ];
    let title = |text: &&str| TextCell(TextTone::Faint, (*text).to_owned());
    let mut rows = vec![titles.iter().map(title).collect::<Vec<_>>()];
    for server in &group.servers {
        for (number, transport) in server.transports.iter().enumerate() {
            rows.push(server_row(server, transport, number == 0));
        }
    }
    for written in &group.unresolved {
        let what = TextCell(TextTone::Bad, "its name has no address".to_owned());
        rows.push(vec![cell(written), cell(""), cell(""), cell(""), what]);
    }
    table(&rows, style, out);
}

fn server_row(server: &ServerReport, transport: &TransportReport, is_first: bool) -> Vec<TextCell> {
    let tone = match (transport.reachable, transport.answered == transport.sent) {
        (true, true) => TextTone::Good,
        (true, false) => TextTone::Sick,
        (false, _) => TextTone::Bad,
    };
    let answered = format!("{}/{}", transport.answered, transport.sent);
    let times = transport.rtt_ms.map_or_else(String::new, |rtt| {
        format!("{:.1}/{:.1}/{:.1}", rtt.min, rtt.median, rtt.max)
    });
    let said = if !transport.reachable {
        let text = transport.failure_text.clone().unwrap_or_default();
        TextCell(TextTone::Bad, strays_or(text, transport))
    } else if is_first {
        cell(what_it_said(server))
    } else {
        cell("")
    };
    let name = if is_first { server.server.as_str() } else { "" };
    vec![
        cell(name),
        cell(medium(transport.transport)),
        TextCell(tone, answered),
        cell(times),
        said,
    ]
}

/// Why there is no answer: the message that arrived instead, or the failure.
fn strays_or(text: String, transport: &TransportReport) -> String {
    let strays = transport.strays;
    let kinds = [
        (strays.wrong_id, "with a wrong ID"),
        (strays.wrong_question, "to another question"),
        (strays.malformed, "malformed"),
        (strays.wrong_source, "from another address"),
    ];
    let came = kinds.iter().filter(|(count, _)| *count > 0);
    let came: Vec<_> = came
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if came.is_empty() {
        text
    } else {
        format!("messages: {}", came.join(", "))
    }
}

fn what_it_said(server: &ServerReport) -> String {
    let mut parts = Vec::new();
    if let Some(answer) = &server.answer {
        parts.push(answer.rcode.clone());
        let flags = [
            (answer.recursion, "RA"),
            (answer.authoritative, "AA"),
            (answer.authenticated, "AD"),
            (answer.truncated, "TC"),
        ];
        parts.extend(
            flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, flag)| (*flag).to_owned()),
        );
    }
    parts.push(match &server.edns {
        EdnsReport::Understood => "EDNS".to_owned(),
        EdnsReport::LeftOut => "answers without EDNS".to_owned(),
        EdnsReport::Refused(code) => format!("{code} to EDNS"),
        EdnsReport::Ignored => "silent to EDNS".to_owned(),
        EdnsReport::Unknown => "EDNS not known".to_owned(),
    });
    if let Some(large) = &server.large {
        parts.push(match large.largest_octets {
            Some(octets) => format!("UDP up to {octets} octets"),
            None => "largest UDP answer not known".to_owned(),
        });
    }
    if let Some(days) = server.certificate.as_ref().and_then(|it| it.days_left) {
        parts.push(format!("certificate for {days} days"));
    }
    parts.extend(server.software.clone());
    parts.join(", ")
}

fn medium(medium: Medium) -> &'static str {
    match medium {
        Medium::Udp => "UDP",
        Medium::Tcp => "TCP",
        Medium::Tls => "TLS",
        Medium::Https => "HTTPS",
    }
}

fn result(result: NameResult) -> (TextTone, &'static str) {
    match result {
        NameResult::Addresses => (TextTone::Good, "addresses"),
        NameResult::Nodata => (TextTone::Sick, "NODATA"),
        NameResult::Nxdomain => (TextTone::Bad, "NXDOMAIN"),
        NameResult::Failure => (TextTone::Bad, "failure"),
        NameResult::NoAnswer => (TextTone::Bad, "no answer"),
    }
}

fn name_lines(name: &NameReport, style: Style, out: &mut String) {
    let head = style.paint(TextTone::Strong, &name.name);
    let way = match (&name.route, name.answered_here) {
        (Some(zone), true) => format!("answered by the route {zone} itself"),
        (None, true) => "answered by records or hosts".to_owned(),
        (Some(zone), false) => {
            let tiers: Vec<_> = name.tiers.iter().map(|tier| tier.group.as_str()).collect();
            format!(
                "asked as {}, route {zone} → {}",
                name.asked,
                tiers.join(" → ")
            )
        }
        (None, false) => "no route holds it".to_owned(),
    };
    line(out, &format!("{head}: {way}"));
    let mut rows = Vec::new();
    for tier in &name.tiers {
        for answer in &tier.answers {
            rows.push(answer_row(&tier.group, answer));
        }
        let (tone, text) = match tier.agreement {
            Agreement::Same => (TextTone::Good, "all say the same"),
            Agreement::Differs => (TextTone::Normal, "addresses differ, as with a CDN's"),
            Agreement::Conflict => (TextTone::Bad, "they contradict each other"),
            Agreement::Unknown => continue,
        };
        let group = cell(&tier.group);
        rows.push(vec![
            group,
            cell("together"),
            cell(""),
            TextCell(tone, text.to_owned()),
        ]);
    }
    rows.push(vec![
        cell("client"),
        cell(""),
        cell(""),
        client(&name.client),
    ]);
    table(&rows, style, out);
    out.pop();
    search_lines(name, style, out);
    for report in &name.https {
        line(out, &https_line(report, style));
    }
    out.push('\n');
}

fn answer_row(group: &str, answer: &NameAnswer) -> Vec<TextCell> {
    let (tone, text) = result(answer.result);
    let mut said = match (&answer.rcode, answer.result) {
        (Some(rcode), NameResult::Failure) => rcode.clone(),
        (_, NameResult::Addresses) => addresses(&answer.addresses),
        _ => text.to_owned(),
    };
    if let Some(alias) = &answer.alias {
        let _ = write!(said, ", alias of {alias}");
    }
    if let Some(ttl) = answer.ttl {
        let _ = write!(said, ", TTL {ttl}");
    }
    let _ = write!(
        said,
        ", {:.1} ms over {}",
        answer.ms,
        medium(answer.transport)
    );
    vec![
        cell(group),
        cell(&answer.server),
        cell(&answer.record_type),
        TextCell(tone, said),
    ]
}

fn addresses(addresses: &[std::net::IpAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

fn client(client: &ClientReport) -> TextCell {
    let (tone, text) = result(client.result);
    let said = if client.addresses.is_empty() {
        text.to_owned()
    } else {
        addresses(&client.addresses)
    };
    let from = client
        .server
        .as_ref()
        .map_or_else(String::new, |server| format!(" from {server}"));
    TextCell(tone, format!("{said}{from} in {:.1} ms", client.ms))
}

fn search_lines(name: &NameReport, style: Style, out: &mut String) {
    let search = &name.search;
    line(
        out,
        &format!(
            "  a pod sends {} queries, {:.1} ms in all:",
            search.queries, search.ms
        ),
    );
    for step in &search.steps {
        let (tone, text) = result(step.result);
        let text = style.paint(tone, text);
        line(
            out,
            &format!("    {} A, AAAA: {text}, {:.1} ms", step.name, step.ms),
        );
    }
}

fn https_line(report: &HttpsReport, style: Style) -> String {
    let connected = report
        .connect_ms
        .map(|ms| format!("connected in {ms:.1} ms"));
    let shaken = report.handshake_ms.map(|ms| format!("TLS in {ms:.1} ms"));
    let certificate = report.certificate.as_ref();
    let days = certificate.and_then(|certificate| certificate.days_left);
    let days = days.map(|days| format!("certificate for {days} days"));
    let failure = report.failure_text.as_ref();
    let failure = failure.map(|text| style.paint(TextTone::Bad, text));
    let parts: Vec<_> = [connected, shaken, days, failure]
        .into_iter()
        .flatten()
        .collect();
    format!("  {}: {}", report.address, parts.join(", "))
}

fn finding_lines(finding: &Finding, style: Style, out: &mut String) {
    let (tone, severity) = match finding.severity {
        Health::Unusable => (TextTone::Bad, "unusable"),
        Health::Degraded | Health::Healthy => (TextTone::Sick, "degraded"),
    };
    let subject = [&finding.name, &finding.server].into_iter().flatten();
    let mut subject: Vec<String> = subject.cloned().collect();
    if let Some(group) = &finding.group {
        subject.push(if subject.is_empty() {
            format!("group {group}")
        } else {
            format!("({group})")
        });
    }
    if let Some(transport) = finding.transport {
        subject.push(medium(transport).to_owned());
    }
    let subject = if subject.is_empty() {
        String::new()
    } else {
        format!("{}: ", subject.join(" "))
    };
    line(
        out,
        &format!(
            "{}  {subject}{}.",
            style.paint(tone, severity),
            finding.problem
        ),
    );
    line(out, &format!("          {}", sentence(&finding.advice)));
}

/// With a capital letter.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_has_no_escape_codes_and_coloured_text_ends_them() {
        for tone in [
            TextTone::Normal,
            TextTone::Strong,
            TextTone::Faint,
            TextTone::Good,
            TextTone::Sick,
            TextTone::Bad,
        ] {
            assert_eq!(Style::Plain.paint(tone, "text"), "text", "{tone:?}");
        }
        let red = Style::Coloured.paint(TextTone::Bad, "text");
        assert_eq!(red, "\u{1b}[31mtext\u{1b}[0m");
    }

    #[test]
    fn columns_stand_below_each_other_whatever_their_colour() {
        let rows = [
            vec![
                cell("a"),
                TextCell(TextTone::Bad, "bcd".to_owned()),
                cell("e"),
            ],
            vec![cell("long"), cell("b"), cell("e")],
        ];
        let mut out = String::new();
        table(&rows, Style::Plain, &mut out);
        assert_eq!(out, "  a     bcd  e\n  long  b    e\n\n");
    }
}
