//! The verdict on a server's certificate, from a TLS handshake.
//!
//! rustls alone validates the certificate, and nothing is sent to a server that it does not trust. It also tells when
//! the certificate expires: validation for the end of the year 9999 fails with the time of expiry. So no other parser
//! of certificates is needed.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    crypto,
};

use super::report::{CertificateReport, CertificateTrouble};
use crate::transport::tls;

/// RFC 5280 §4.1.2.5: 9999-12-31 23:59:59, which a certificate without an end names. No certificate can name a later time.
const END_OF_TIME: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(253_402_300_799));
const SECONDS_A_DAY: i64 = 86_400;

/// A certificate that a server showed, with the verdict on it.
#[derive(Debug, Clone, Default)]
struct ShownCertificate {
    shown: bool,
    not_after: Option<UnixTime>,
    refused: Option<CertificateError>,
}

/// Validates as [`WebPkiServerVerifier`] does, and keeps the verdict.
#[derive(Debug)]
struct Witness {
    judge: Arc<WebPkiServerVerifier>,
    seen: Mutex<ShownCertificate>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = |time| {
            let judge = &self.judge;
            judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, time)
        };
        let verdict = judged(now);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.shown = true;
        seen.not_after = match judged(END_OF_TIME) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext {
                not_after, ..
            })) => Some(not_after),
            _ => None,
        };
        seen.refused = match &verdict {
            Err(Error::InvalidCertificate(error)) => Some(error.clone()),
            _ => None,
        };
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.judge
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

/// One handshake to make.
pub(super) struct Handshake {
    name: String,
    connector: TlsConnector,
    server_name: ServerName<'static>,
    witness: Arc<Witness>,
}

impl Handshake {
    /// With a server whose certificate must be valid for `name`; `protocols` are offered by ALPN.
    ///
    /// # Errors
    /// If the name can stand in no certificate.
    pub(super) fn new(
        name: &str,
        protocols: &[&[u8]],
        roots: Arc<RootCertStore>,
    ) -> io::Result<Self> {
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|error| invalid(format!("{name}: {error}")))?;
        let provider = Arc::new(crypto::ring::default_provider());
        let judge = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        let witness = Arc::new(Witness {
            judge,
            seen: Mutex::default(),
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&witness) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Self {
            name: name.to_owned(),
            connector: TlsConnector::from(Arc::new(config)),
            server_name,
            witness,
        })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// Those of the stream, and a certificate that is not to be trusted.
    pub(super) async fn shake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = self.server_name.clone();
        self.connector.connect(name, stream).await
    }

    /// The certificate that the server showed, if it did.
    pub(super) fn certificate(&self) -> Option<CertificateReport> {
        let seen = self.witness.seen.lock();
        let seen = seen.unwrap_or_else(PoisonError::into_inner).clone();
        if !seen.shown {
            return None;
        }
        let expires_at = seen.not_after.map(|time| time.as_secs());
        Some(CertificateReport {
            name: self.name.clone(),
            trouble: seen.refused.as_ref().map(kind),
            trouble_text: seen.refused.as_ref().map(tls::certificate_trouble),
            expires_at,
            days_left: expires_at.map(days_left),
        })
    }
}

fn days_left(expires_at: u64) -> i64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    (signed(expires_at) - signed(now.as_secs())).div_euclid(SECONDS_A_DAY)
}

fn kind(error: &CertificateError) -> CertificateTrouble {
    match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateTrouble::WrongName
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            CertificateTrouble::Expired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificateTrouble::NotYetValid
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            CertificateTrouble::Untrusted
        }
        _ => CertificateTrouble::Unusable,
    }
}
