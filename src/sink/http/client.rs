//! Connections to an HTTP service: plain or TLS, kept alive.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::limits::UPSTREAM_IDLE_MS;

/// Makes connections.
pub(super) type Connector = HttpsConnector<HttpConnector>;
/// Sends requests over connections that it keeps.
pub(super) type Client = legacy::Client<Connector, Full<Bytes>>;

/// How to connect.
#[derive(Clone, Debug)]
pub(super) struct Connecting {
    /// Whether the service is to show a certificate.
    pub(super) is_tls: bool,
    /// The file with the authorities to trust; empty for the machine's own.
    pub(super) ca_file: String,
    /// Time for a TCP connection.
    pub(super) timeout: Duration,
}

impl Connecting {
    /// Makes connections of this kind; reads files.
    ///
    /// # Errors
    ///
    /// There is no authority to trust, in words.
    pub(super) fn connector(&self) -> Result<Connector, String> {
        let roots = if self.is_tls { self.roots()? } else { RootCertStore::empty() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.timeout));
        Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if self.ca_file.is_empty() {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                let why: String = found.errors.iter().map(|error| format!(" ({error})")).collect();
                return Err(format!(
                    "this machine has no certificate authorities to trust{why}; install them (apt-get install \
                     ca-certificates), or write `tls_ca_file`"
                ));
            }
            return Ok(roots);
        }
        let failed = |error: &dyn std::fmt::Display| format!("`tls_ca_file` {}: {error}", self.ca_file);
        let certificates = CertificateDer::pem_file_iter(Path::new(&self.ca_file)).map_err(|error| failed(&error))?;
        for certificate in certificates {
            roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        }
        if roots.is_empty() {
            return Err(failed(&"there is no certificate in it; it should be a PEM file"));
        }
        Ok(roots)
    }
}

/// Sends requests over connections that this connector makes, of which so many are kept.
pub(super) fn client(connector: Connector, connections_max: usize) -> Client {
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_millis(UPSTREAM_IDLE_MS))
        .pool_max_idle_per_host(connections_max)
        .build(connector)
}
