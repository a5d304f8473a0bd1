//! Self-signed certificates for the TLS servers of tests.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::TempDir;

/// A root certificate in a PEM file, which is removed when the value is dropped.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) file: PathBuf,
    _dir: TempDir,
}

/// A server's configuration with a new certificate for this name, and the certificate as a root.
pub(crate) fn certificate_for(name: &str) -> (ServerConfig, Root) {
    certificate(&CertificateParams::new([name.to_owned()]).expect("a DNS name"))
}

/// As [`certificate_for`], with these parameters of the certificate.
pub(crate) fn certificate(params: &CertificateParams) -> (ServerConfig, Root) {
    let key = KeyPair::generate().expect("a key");
    let signed = params.self_signed(&key).expect("a certificate");
    let dir = TempDir::new();
    let file = dir.write("ca.pem", &signed.pem());
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![signed.der().clone()], key)
        .expect("the key is the certificate's");
    (config, Root { file, _dir: dir })
}
