//! TLS with certificates: a folder of credentials, in files named as `tls-creds-x509` has them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::stream::Stream;

/// Certificates of those who sign others.
const CA_CERT: &str = "ca-cert.pem";
/// Certificates that are no longer valid; need not be there.
const CA_CRL: &str = "ca-crl.pem";

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("cannot use '{}': {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The parts do not fit.
    #[error("the credentials in '{}' cannot be used: {why}", .folder.display())]
    Credentials {
        /// The folder.
        folder: PathBuf,
        /// The reason.
        why: String,
    },
    /// No name that a certificate could have.
    #[error("'{name}' is no name or address of a host, which a server's certificate could have")]
    HostName {
        /// What was given.
        name: String,
    },
}

/// What a server shows its clients, and wants to see of them.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

/// What a client shows a server, and wants to see of it.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl ServerTls {
    /// Reads `ca-cert.pem`, `server-cert.pem`, `server-key.pem` and, if it is there, `ca-crl.pem` of a folder. With `verify_peer`,
    /// clients need a certificate that is signed by one of the first.
    pub fn load(folder: &Path, verify_peer: bool) -> Result<ServerTls, TlsError> {
        let failed = |error: &dyn std::error::Error| credentials(folder, error);
        let authorities = Arc::new(authorities(folder)?);
        let (chain, key) = identity(folder, "server")?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?;
        let builder = if verify_peer {
            let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider());
            let verifier = verifier.with_crls(revoked(folder)?).build().map_err(|error| failed(&error))?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(chain, key).map_err(|error| failed(&error))?;
        Ok(ServerTls { config: Arc::new(config) })
    }

    /// Lets a client start TLS.
    pub(super) async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        Ok(Box::new(TlsAcceptor::from(self.config.clone()).accept(stream).await?))
    }
}

impl ClientTls {
    /// Reads `ca-cert.pem` and, where they are there, `client-cert.pem`, `client-key.pem` and `ca-crl.pem` of a folder. The server's
    /// certificate must be signed by one of the first, and be for `host`.
    pub fn load(folder: &Path, host: &str) -> Result<ClientTls, TlsError> {
        let failed = |error: &dyn std::error::Error| credentials(folder, error);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::HostName { name: host.into() })?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(authorities(folder)?), provider());
        let verifier = verifier.with_crls(revoked(folder)?).build().map_err(|error| failed(&error))?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_webpki_verifier(verifier);
        let config = if folder.join("client-cert.pem").exists() {
            let (chain, key) = identity(folder, "client")?;
            builder.with_client_auth_cert(chain, key).map_err(|error| failed(&error))?
        } else {
            builder.with_no_client_auth()
        };
        Ok(ClientTls { config: Arc::new(config), name })
    }

    /// Starts TLS with a server.
    pub(super) async fn connect(&self, stream: Stream) -> io::Result<Stream> {
        Ok(Box::new(TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await?))
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "ClientTls({:?})", self.name)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn credentials(folder: &Path, error: &dyn std::error::Error) -> TlsError {
    TlsError::Credentials { folder: folder.into(), why: error.to_string() }
}

/// What a file has of one kind; not nothing.
fn read<T: PemObject>(path: PathBuf) -> Result<Vec<T>, TlsError> {
    let failed = |why: String| TlsError::File { path: path.clone(), why };
    let text = std::fs::read(&path).map_err(|error| failed(crate::host_words(&error)))?;
    let items = T::pem_slice_iter(&text).collect::<Result<Vec<T>, _>>().map_err(|error| failed(error.to_string()))?;
    if items.is_empty() { Err(failed("it has none of what it should have, in PEM".into())) } else { Ok(items) }
}

fn authorities(folder: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in read::<CertificateDer>(folder.join(CA_CERT))? {
        store.add(certificate).map_err(|error| credentials(folder, &error))?;
    }
    Ok(store)
}

fn revoked(folder: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let path = folder.join(CA_CRL);
    if path.exists() { read(path) } else { Ok(Vec::new()) }
}

/// The certificates of one side, and their key.
fn identity(folder: &Path, side: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = read(folder.join(format!("{side}-cert.pem")))?;
    let path = folder.join(format!("{side}-key.pem"));
    let key = read::<PrivateKeyDer>(path.clone())?.pop();
    match key {
        Some(key) => Ok((chain, key)),
        None => Err(TlsError::File { path, why: "it has no key".into() }),
    }
}
