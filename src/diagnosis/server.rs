//! Examines one server: whether it answers, how fast, whether it understands EDNS and TCP, and how large its answers
//! may be.
//!
//! Owns the queries for that. [`super::judgement`] derives the findings.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::asking::{Inquiry, ServerPath, Tried};
use super::report::{
    AnswerReport, EdnsReport, LargeReport, Medium, OfferReport, OfferResult, ServerReport, Spread,
    Strays, TransportReport, Trouble,
};
use crate::message::form::may_refuse_form;
use crate::message::labels::rcode_label;
use crate::message::response::{Kind, Response};
use crate::message::wire::{self, MIN_PAYLOAD, flag, rcode};

/// Pause between two tries, so that they are no burst.
const PAUSE: Duration = Duration::from_millis(10);
/// Queries without EDNS beside those with it.
const PLAIN_TRIES: usize = 2;
/// Queries over TCP beside UDP.
const TCP_TRIES: usize = 2;
/// Factor by which tries are multiplied when some are lost: one lost datagram proves little.
const MORE_TRIES: usize = 3;
/// How often an offer is made before it counts as unanswered.
const OFFER_TRIES: usize = 3;
/// Sizes offered: the least there is (RFC 6891 §6.2.3), ours, what an Ethernet frame holds, and what needs fragments.
const OFFERS: [u16; 4] = [MIN_PAYLOAD, wire::MAX_PAYLOAD, 1_400, 4_096];

/// What to ask a server.
#[derive(Debug, Clone)]
pub(super) struct Examination {
    pub(super) line: ServerPath,
    /// The group's probe question.
    pub(super) probe: Inquiry,
    /// The SOA of the zone by which the group is reached, if that is not the root: its servers need not know others.
    pub(super) apex: Option<Inquiry>,
}

/// Text of a question: `. NS`.
pub(super) fn question_text(inquiry: &Inquiry) -> String {
    format!("{} {}", inquiry.name.to_ascii(), inquiry.record_type)
}

impl Examination {
    pub(super) async fn run(self: Arc<Self>) -> ServerReport {
        let first = self.line.medium();
        let plain = self.probe.with_edns(None);
        let tries = self.line.pace.tries;
        let (with_edns, without, over_tcp, software, identity) = tokio::join!(
            self.try_often(first, &self.probe, tries),
            self.try_often(first, &plain, PLAIN_TRIES),
            self.over_tcp_too(&plain),
            self.chaos("version.bind."),
            self.chaos("id.server."),
        );
        let edns = understanding(&with_edns, &without);
        // A server that is silent to EDNS alone is measured without it.
        let (form, mut measured) = match edns {
            EdnsReport::Ignored => (&plain, without.clone()),
            _ => (&self.probe, with_edns.clone()),
        };
        if is_lossy(&measured) {
            measured.extend(self.try_often(first, form, MORE_TRIES * tries).await);
        }
        let reached = measured.iter().any(|tried| tried.result.is_ok());
        let takes_sizes = reached && matches!(edns, EdnsReport::Understood | EdnsReport::LeftOut);
        let (answer, large) = tokio::join!(self.answer(&with_edns, &without, &over_tcp), async {
            match first {
                Medium::Udp if takes_sizes => Some(self.sizes().await),
                Medium::Udp => Some(LargeReport {
                    largest_octets: None,
                    available_octets: None,
                    offers: Vec::new(),
                }),
                _ => None,
            }
        });
        let mut transports = vec![transport_report(first, &measured)];
        if !over_tcp.is_empty() {
            transports.push(transport_report(Medium::Tcp, &over_tcp));
        }
        let mut certificates = measured
            .iter()
            .filter_map(|tried| tried.certificate.as_ref());
        ServerReport {
            server: self.line.server.to_string(),
            address: self.line.server.address,
            working: is_working(reached, answer.as_ref()),
            certificate: certificates.next().cloned(),
            transports,
            answer,
            edns,
            large,
            software,
            identity,
        }
    }

    /// Asks a server of UDP over TCP, too; with EDNS, unless it answers without it alone.
    async fn over_tcp_too(&self, plain: &Inquiry) -> Vec<Tried> {
        if self.line.medium() != Medium::Udp {
            return Vec::new();
        }
        let (with_edns, without) = tokio::join!(
            self.try_often(Medium::Tcp, &self.probe, TCP_TRIES),
            self.try_often(Medium::Tcp, plain, TCP_TRIES),
        );
        let any = |tries: &[Tried]| tries.iter().any(|tried| tried.result.is_ok());
        if any(&without) && !any(&with_edns) {
            without
        } else {
            with_edns
        }
    }

    /// Asks the same question several times, each from another port, without waiting for the earlier answers.
    async fn try_often(&self, medium: Medium, inquiry: &Inquiry, times: usize) -> Vec<Tried> {
        let mut tries = JoinSet::new();
        for _ in 0..times {
            let (line, inquiry) = (self.line.clone(), inquiry.clone());
            tries.spawn(async move { line.ask_over(medium, &inquiry).await });
            sleep(PAUSE).await;
        }
        tries.join_all().await
    }

    /// What the server calls its software or itself (RFC 4892): what can be printed of it.
    async fn chaos(&self, name: &str) -> Option<String> {
        let mut inquiry = Inquiry::new(Name::from_ascii(name).ok()?, RecordType::TXT);
        inquiry.class = DNSClass::CH;
        inquiry.edns = None;
        let heard = self.line.ask(&inquiry).await.result.ok()?;
        let message = Message::from_vec(&heard.message).ok()?;
        let text = message
            .answers
            .iter()
            .find_map(|record| match &record.data {
                RData::TXT(text) => Some(text.txt_data.concat()),
                _ => None,
            })?;
        let printable = text
            .iter()
            .filter(|octet| octet.is_ascii_graphic() || **octet == b' ');
        let text: String = printable.take(64).map(|&octet| char::from(octet)).collect();
        (!text.is_empty()).then_some(text)
    }

    /// The server's answer to the probe question; if it refuses that, to the SOA of its zone.
    async fn answer(
        &self,
        with_edns: &[Tried],
        without: &[Tried],
        over_tcp: &[Tried],
    ) -> Option<AnswerReport> {
        let all = with_edns.iter().chain(without);
        let mut heard: Vec<&Tried> = all.filter(|tried| tried.result.is_ok()).collect();
        if heard.is_empty() {
            heard.extend(over_tcp.iter().filter(|tried| tried.result.is_ok()));
        }
        // One that refuses the form says nothing about the question, if there is another.
        heard.sort_by_key(|tried| {
            let refused = |heard: &super::asking::Heard| may_refuse_form(heard.rcode());
            tried.result.as_ref().is_ok_and(refused)
        });
        let best = heard.first()?.result.as_ref().ok()?;
        let mut answer = answer_report(&self.probe, &best.message);
        if answer.truncated {
            let whole = over_tcp
                .iter()
                .filter_map(|tried| tried.result.as_ref().ok())
                .find(|heard| wire::flags(&heard.message) & flag::TC == 0);
            answer.octets_over_tcp = whole.map(|heard| heard.message.len());
        }
        let refused = !matches!(best.rcode(), rcode::NOERROR | rcode::NXDOMAIN);
        if let Some(apex) = self.apex.as_ref().filter(|_| refused)
            && let Ok(heard) = self.line.ask(apex).await.result
        {
            answer = answer_report(apex, &heard.message);
        }
        Some(answer)
    }

    /// How large an answer over UDP may be. The root's keys and servers, with signatures, have about 1,100 octets; a server
    /// that does not know the root has nothing large that we know of.
    async fn sizes(&self) -> LargeReport {
        let questions = [RecordType::DNSKEY, RecordType::NS];
        let mut asked = JoinSet::new();
        for record_type in questions {
            for offer in OFFERS {
                let line = self.line.clone();
                let inquiry = Inquiry::new(Name::root(), record_type);
                let inquiry = inquiry.with_edns(Some((offer, true)));
                asked.spawn(async move {
                    let mut octets = None;
                    for _ in 0..OFFER_TRIES {
                        if let Ok(heard) = line.ask(&inquiry).await.result {
                            octets = Some((heard.message.len(), heard.truncated()));
                            break;
                        }
                    }
                    (record_type, Some(offer), octets)
                });
            }
            let line = self.line.clone();
            let inquiry = Inquiry::new(Name::root(), record_type).with_edns(Some((4_096, true)));
            asked.spawn(async move {
                let heard = line.ask_over(Medium::Tcp, &inquiry).await.result.ok();
                let octets = heard.map(|heard| (heard.message.len(), false));
                (record_type, None, octets)
            });
        }
        let asked = asked.join_all().await;
        let available = asked.iter().filter(|(_, offer, _)| offer.is_none());
        let available = available.filter_map(|(_, _, octets)| octets.map(|(octets, _)| octets));
        let over_udp = |wanted: u16| -> Vec<_> {
            let of_offer = asked.iter().filter(|(_, offer, _)| *offer == Some(wanted));
            of_offer.map(|(_, _, octets)| *octets).collect()
        };
        let offers: Vec<_> = OFFERS
            .iter()
            .map(|&offered| offer_report(offered, &over_udp(offered)))
            .collect();
        let largest = offers.iter().filter_map(|offer| offer.octets).max();
        LargeReport {
            largest_octets: largest.filter(|&octets| octets > usize::from(MIN_PAYLOAD)),
            available_octets: available.max(),
            offers,
        }
    }
}

/// The worst result among all questions for one size.
fn offer_report(offered: u16, came: &[Option<(usize, bool)>]) -> OfferReport {
    let result = if came.iter().any(Option::is_none) {
        OfferResult::Silence
    } else if came.iter().flatten().any(|(_, truncated)| *truncated) {
        OfferResult::Truncated
    } else {
        OfferResult::Whole
    };
    OfferReport {
        offered,
        result,
        octets: came.iter().flatten().map(|(octets, _)| *octets).max(),
    }
}

fn is_working(reached: bool, answer: Option<&AnswerReport>) -> bool {
    reached
        && answer.is_some_and(|answer| {
            let useful = answer.rcode == "NOERROR" || answer.rcode == "NXDOMAIN";
            useful && !answer.referral && (!answer.truncated || answer.octets_over_tcp.is_some())
        })
}

/// Whether some tries were answered and others not.
fn is_lossy(tries: &[Tried]) -> bool {
    let answered = tries.iter().filter(|tried| tried.result.is_ok()).count();
    answered > 0 && answered < tries.len()
}

fn understanding(with: &[Tried], without: &[Tried]) -> EdnsReport {
    let heard = |tries: &[Tried]| -> Vec<_> {
        let answered = tries.iter().filter_map(|tried| tried.result.as_ref().ok());
        answered.cloned().collect()
    };
    let (with, without) = (heard(with), heard(without));
    let Some(first) = with.first() else {
        return if without.is_empty() {
            EdnsReport::Unknown
        } else {
            EdnsReport::Ignored
        };
    };
    let code = first.rcode();
    if may_refuse_form(code) {
        // The same code to both forms refuses the question, not EDNS.
        let same = without.first().is_some_and(|other| other.rcode() == code);
        return if same {
            EdnsReport::Unknown
        } else {
            EdnsReport::Refused(rcode_label(code).to_owned())
        };
    }
    let has_opt = Message::from_vec(&first.message).is_ok_and(|message| message.edns.is_some());
    if has_opt {
        EdnsReport::Understood
    } else {
        EdnsReport::LeftOut
    }
}

fn answer_report(inquiry: &Inquiry, message: &[u8]) -> AnswerReport {
    let flags = wire::flags(message);
    let read = Response::read(message);
    let referral = read.is_ok_and(|response| response.kind() == Kind::Referral);
    AnswerReport {
        question: question_text(inquiry),
        rcode: rcode_label(crate::message::form::code_of(message)).to_owned(),
        referral,
        recursion: flags & flag::RA != 0,
        authoritative: flags & flag::AA != 0,
        authenticated: flags & flag::AD != 0,
        truncated: flags & flag::TC != 0,
        octets_over_tcp: None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few tries")]
fn transport_report(medium: Medium, tries: &[Tried]) -> TransportReport {
    let heard: Vec<_> = tries
        .iter()
        .filter_map(|tried| tried.result.as_ref().ok())
        .collect();
    // A query that was not sent before the deadline does not count as lost.
    let unheard = tries.iter().filter_map(|tried| tried.result.as_ref().err());
    let unheard: Vec<_> = unheard.collect();
    let skipped = unheard
        .iter()
        .filter(|unheard| unheard.trouble == Trouble::OutOfTime);
    let sent = tries.len() - skipped.count();
    let lost = sent - heard.len();
    let mut strays = Strays::default();
    for tried in tries {
        strays.add(tried.strays);
    }
    let rtts: Vec<_> = heard.iter().map(|heard| heard.rtt).collect();
    let connects: Vec<_> = heard.iter().map(|heard| heard.connect).collect();
    let latest = unheard.last();
    TransportReport {
        transport: medium,
        reachable: !heard.is_empty(),
        sent,
        answered: heard.len(),
        loss_percent: (lost as f64 * 1_000.0 / sent.max(1) as f64).round() / 10.0,
        rtt_ms: Spread::of(&rtts),
        connect_ms: Spread::of(&connects).filter(|_| medium != Medium::Udp),
        failure: latest.map(|unheard| unheard.trouble),
        failure_text: latest.map(|unheard| unheard.text.clone()),
        strays,
    }
}
