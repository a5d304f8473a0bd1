//! TLS to upstream servers (RFC 7858, RFC 8484, RFC 8310: strict privacy, the server's certificate must be valid for its name).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{CertificateError, ClientConfig, RootCertStore, crypto};
use tokio_rustls::{TlsConnector, rustls};

/// The ALPN name that RFC 7858 registers. Servers that share a port with other protocols choose by it.
pub const DNS: &[u8] = b"dot";
/// The ALPN name of HTTP/2 (RFC 9113 §3.1).
pub const HTTP2: &[u8] = b"h2";

/// Most names of a certificate that a message shows. A web server's certificate may have hundreds.
const NAMES_SHOWN: usize = 3;

/// What a worker needs to open TLS connections to one server.
#[derive(Clone)]
pub struct Tls {
    /// Has the trusted roots and the session cache.
    pub connector: TlsConnector,
    /// The name the certificate must be valid for.
    pub name: ServerName<'static>,
    /// A failed handshake was logged, and none has succeeded since. All workers share this flag.
    warned: Arc<AtomicBool>,
}

/// The certificates of a PEM file.
///
/// # Errors
/// If the file is not PEM, or has no certificate.
pub fn read_roots(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(invalid)?;
    if certificates.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it holds no certificate",
        ));
    }
    Ok(certificates)
}

/// The roots of Mozilla's root program, and `extra`.
///
/// # Errors
/// If one of `extra` is not a certificate.
pub fn trusted_roots(extra: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    for root in extra {
        roots.add(root.clone())?;
    }
    Ok(roots)
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Whether both are clones of one value, so that they share roots, session cache and name.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(self.connector.config(), other.connector.config())
    }

    /// TLS to a server with this name and `protocol` ([`DNS`] or [`HTTP2`]). `extra_roots` are trusted as well as the roots of
    /// Mozilla's root program.
    ///
    /// # Errors
    /// If the name is neither a DNS name nor an IP address, or a root is not a certificate.
    pub fn new(
        name: &str,
        protocol: &[u8],
        extra_roots: &[CertificateDer<'static>],
    ) -> io::Result<Self> {
        let invalid = |error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, error.to_string())
        };
        let name = ServerName::try_from(name.to_owned()).map_err(|error| invalid(&error))?;
        let roots = trusted_roots(extra_roots).map_err(|error| invalid(&error))?;
        let provider = Arc::new(crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
            warned: Arc::default(),
        })
    }

    /// Does the handshake with the server that logs call `label`. A failed handshake is logged, and further failures are not
    /// until one succeeds.
    ///
    /// # Errors
    /// Errors of the stream and of the server's certificate, and if the server does not speak the protocol.
    pub async fn connect<S>(&self, label: &str, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let shaken = self.connector.connect(self.name.clone(), stream).await;
        // Servers of DNS over TLS need not support ALPN.
        let is_http = self.connector.config().alpn_protocols == [HTTP2];
        let shaken = match shaken {
            Ok(stream) if is_http => agreed_on_http2(&stream).map(|()| stream),
            other => other,
        };
        match &shaken {
            Ok(_) => self.warned.store(false, Ordering::Relaxed),
            // A broken connection is a fault of the network, not of TLS.
            Err(error) if error.kind() != io::ErrorKind::InvalidData => {}
            Err(error) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    let why = reason(error);
                    tracing::warn!(server = label, why, "no TLS with an upstream server");
                }
            }
        }
        shaken
    }
}

/// Checks that the handshake agreed on HTTP/2 by ALPN (RFC 9113 §3.2).
///
/// # Errors
/// If it did not.
pub fn agreed_on_http2<S>(stream: &TlsStream<S>) -> io::Result<()> {
    if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
        return Ok(());
    }
    let error = "the server does not offer HTTP/2";
    Err(io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Why a handshake failed.
fn reason(error: &io::Error) -> String {
    let source = error.get_ref().and_then(|source| source.downcast_ref());
    match source {
        Some(rustls::Error::InvalidCertificate(error)) => certificate_trouble(error),
        _ => error.to_string(),
    }
}

/// What is wrong with a server's certificate.
#[must_use]
pub fn certificate_trouble(error: &CertificateError) -> String {
    let between = |from: &UnixTime, to: &UnixTime| {
        in_words(Duration::from_secs(
            to.as_secs().saturating_sub(from.as_secs()),
        ))
    };
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            format!("its certificate expired {} ago", between(not_after, time))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!(
                "its certificate is not valid before {} from now",
                between(time, not_before)
            )
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            format!(
                "its certificate is for {}, not for {expected}",
                names(presented)
            )
        }
        CertificateError::UnknownIssuer => {
            "its certificate leads to no root that is trusted".to_owned()
        }
        // rustls reports these two as text only.
        other => match other.to_string() {
            text if text.contains("CaUsedAsEndEntity") => {
                "its certificate is that of a certificate authority, not of a server".to_owned()
            }
            text if text.contains("UnsupportedCertVersion") => {
                "its certificate is not of X.509 version 3".to_owned()
            }
            text => format!("its certificate cannot be used: {text}"),
        },
    }
}

/// Lists the names of a certificate, at most [`NAMES_SHOWN`]. rustls writes them as `DnsName("dns.example")`; here they are
/// plain.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| match name.split_once('(') {
        Some((_, inner)) => inner.trim_matches(['(', ')', '"']).to_owned(),
        None => name.clone(),
    };
    let shown: Vec<_> = presented.iter().take(NAMES_SHOWN).map(plain).collect();
    match presented.len() {
        0 => "no name".to_owned(),
        all if all > shown.len() => format!("{} and others", shown.join(", ")),
        _ => shown.join(", "),
    }
}

/// A duration in days if it is at least two days, in hours if it is at least two hours, else in minutes.
fn in_words(duration: Duration) -> String {
    let minutes = duration.as_secs() / 60;
    match (minutes / (24 * 60), minutes / 60) {
        (0..=1, 0..=1) => format!("{minutes} minutes"),
        (0..=1, hours) => format!("{hours} hours"),
        (days, _) => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_errors_are_explained_in_words() {
        let at = |days: u64| UnixTime::since_unix_epoch(Duration::from_secs(days * 86_400 + 7));
        for (error, want) in [
            (
                CertificateError::ExpiredContext {
                    time: at(12),
                    not_after: at(9),
                },
                "its certificate expired 3 days ago",
            ),
            (
                CertificateError::NotValidYetContext {
                    time: at(1),
                    not_before: at(2),
                },
                "its certificate is not valid before 24 hours from now",
            ),
            (
                CertificateError::NotValidForNameContext {
                    expected: ServerName::try_from("dns.example").expect("a name"),
                    presented: ["a", "b", "c", "d"]
                        .map(|name| format!("DnsName(\"{name}.example\")"))
                        .into(),
                },
                "its certificate is for a.example, b.example, c.example and others, not for dns.example",
            ),
            (
                CertificateError::Revoked,
                "its certificate cannot be used: Revoked",
            ),
        ] {
            assert_eq!(certificate_trouble(&error), want);
        }
    }
}
