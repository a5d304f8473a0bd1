//! TLS to upstream servers (RFC 7858, RFC 8484, RFC 8310: strict privacy, the server's certificate must be valid for its name).

use std::io;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_rustls::{TlsConnector, rustls};

/// RFC 7858 registers this protocol name; servers on a shared port choose by it.
pub const DNS: &[u8] = b"dot";
/// RFC 9113 §3.1.
pub const HTTP2: &[u8] = b"h2";

/// What a worker needs to open TLS connections to one server.
#[derive(Clone)]
pub struct Tls {
    /// Holds the roots and the session cache.
    pub connector: TlsConnector,
    /// The name the certificate must be valid for.
    pub name: ServerName<'static>,
}

/// The certificates of a PEM file.
///
/// # Errors
/// If it is not PEM, or holds no certificate.
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

/// The web's roots and these.
///
/// # Errors
/// If one of these is no certificate.
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
    /// Whether both are clones of one: the same roots, session cache and name.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(self.connector.config(), other.connector.config())
    }

    /// For a server of this name that speaks `protocol` ([`DNS`] or [`HTTP2`]); `extra_roots` are trusted beside the web's.
    ///
    /// # Errors
    /// If the name is no DNS name, or a root is no certificate.
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
        })
    }
}
