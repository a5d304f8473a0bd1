//! Connections to port 443 of a name's addresses: whether they are accepted, and with which certificate. No request is
//! sent.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::rustls::RootCertStore;

use super::asking::{QueryLimits, Unheard, of_handshake};
use super::certificate::Handshake;
use super::report::{HttpsReport, Trouble, in_milliseconds};
use crate::runtime::timeout::timeout_at;

/// Protocols offered to web servers (RFC 9113 §3.2, RFC 7301 §6).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// The most addresses that are tried: a large site has too many to report.
const ADDRESSES: usize = 8;

/// How to connect.
#[derive(Debug, Clone)]
pub struct HttpsCheck {
    /// Usually 443.
    pub port: u16,
    /// Roots that are trusted.
    pub roots: Arc<RootCertStore>,
}

impl HttpsCheck {
    /// Connects to each of these, in their order.
    pub(super) async fn run(
        &self,
        name: &str,
        addresses: &[IpAddr],
        pace: QueryLimits,
    ) -> Vec<HttpsReport> {
        let mut connections = JoinSet::new();
        for (place, &ip) in addresses.iter().take(ADDRESSES).enumerate() {
            let (check, name) = (self.clone(), name.to_owned());
            let address = SocketAddr::new(ip, self.port);
            connections.spawn(async move { (place, check.connect(&name, address, pace).await) });
        }
        let mut reports = connections.join_all().await;
        reports.sort_by_key(|(place, _)| *place);
        reports.into_iter().map(|(_, report)| report).collect()
    }

    async fn connect(&self, name: &str, address: SocketAddr, pace: QueryLimits) -> HttpsReport {
        let mut report = HttpsReport {
            address,
            connect_ms: None,
            handshake_ms: None,
            failure: None,
            failure_text: None,
            certificate: None,
        };
        let started = Instant::now();
        let end = (started + pace.timeout).min(pace.deadline);
        let result = timeout_at(end, self.shake(name, &mut report)).await;
        let failed = match result {
            Ok(Ok(())) => return report,
            Ok(Err(unheard)) => unheard,
            Err(_) if end == pace.deadline => Unheard {
                trouble: Trouble::OutOfTime,
                text: "the deadline was over first".to_owned(),
            },
            Err(_) => Unheard {
                trouble: Trouble::Silence,
                text: format!("no answer within {:?}", pace.timeout),
            },
        };
        report.failure = Some(failed.trouble);
        report.failure_text = Some(failed.text);
        report
    }

    async fn shake(&self, name: &str, report: &mut HttpsReport) -> Result<(), Unheard> {
        let started = Instant::now();
        let stream = TcpStream::connect(report.address)
            .await
            .map_err(|error| Unheard::of_host(&error))?;
        report.connect_ms = Some(in_milliseconds(started.elapsed()));
        let connected = Instant::now();
        let handshake = Handshake::new(name, &PROTOCOLS, Arc::clone(&self.roots));
        let handshake = handshake.map_err(|error| of_handshake(&error, None))?;
        let shaken = handshake.shake(stream).await;
        report.certificate = handshake.certificate();
        let stream = shaken.map_err(|error| of_handshake(&error, report.certificate.as_ref()))?;
        report.handshake_ms = Some(in_milliseconds(connected.elapsed()));
        drop(stream);
        Ok(())
    }
}
