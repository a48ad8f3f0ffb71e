//! TLS towards PostgreSQL, as the URL asks for it in libpq's words: `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::Error;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// What `sslrootcert` says for the certificates that the system trusts, which is also the default.
const SYSTEM: &str = "system";

/// How the connection is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tls {
    mode: Mode,
    /// A file with the certificates of those who may sign the server's; `None` for those that the system trusts.
    root: Option<PathBuf>,
    /// Files with our own certificate and its key.
    client: Option<(PathBuf, PathBuf)>,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// None.
    Disable,
    /// If the server has it; nobody looks at whose it is.
    #[default]
    Prefer,
    /// Always; nobody looks at whose it is, unless there is a root.
    Require,
    /// Always, with a certificate that somebody trusted has signed.
    VerifyCa,
    /// The same, for the very host of the URL.
    VerifyFull,
}

const MODES: [(&str, Mode); 5] = [
    ("disable", Mode::Disable),
    ("prefer", Mode::Prefer),
    ("require", Mode::Require),
    ("verify-ca", Mode::VerifyCa),
    ("verify-full", Mode::VerifyFull),
];

/// Takes what says something of TLS out of a URL; returns what is left for the client's own parser.
///
/// # Errors
///
/// What cannot be so, in a sentence without the URL.
pub(super) fn split(url: &str) -> Result<(String, Tls), String> {
    let mut tls = Tls::default();
    // What is before the first `@` is a name and a password, in which a question mark begins nothing.
    let query = url.find('@').unwrap_or(0);
    let Some(query) = url[query..].find('?').map(|at| query + at) else { return Ok((url.to_owned(), tls)) };
    let (mut mode, mut certificate, mut key, mut rest) = (None, None, None, Vec::new());
    for parameter in url[query + 1..].split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            "sslmode" => mode = Some(value),
            "sslrootcert" => tls.root = (value != SYSTEM).then(|| path(value)).transpose()?,
            "sslcert" => certificate = Some(path(value)?),
            "sslkey" => key = Some(path(value)?),
            _ => rest.push(parameter),
        }
    }
    if let Some(word) = mode {
        let known = MODES.iter().find(|(known, _)| *known == word);
        tls.mode = known.ok_or("the URL's sslmode must be disable, prefer, require, verify-ca or verify-full")?.1;
    }
    tls.client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("the URL has one of sslcert and sslkey, and they need each other".to_owned()),
    };
    if tls.root.is_some() && matches!(tls.mode, Mode::Disable | Mode::Prefer) {
        return Err(
            "the URL's sslrootcert needs sslmode=verify-full, verify-ca or require, which look at it".to_owned()
        );
    }
    let rest = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    Ok((format!("{}{rest}", &url[..query]), tls))
}

/// A path as a URL has it: `%2F` is a slash.
fn path(value: &str) -> Result<PathBuf, String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let hex = || behind.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        let (byte, used) = if *first == b'%' { (hex(), 3) } else { (Some(*first), 1) };
        bytes.push(byte.ok_or("the URL has a path with a `%` that no two hexadecimal digits follow")?);
        rest = rest.get(used..).unwrap_or_default();
    }
    let text = String::from_utf8(bytes).map_err(|_| "the URL has a path that is not UTF-8")?;
    if text.is_empty() { Err("the URL has a file of certificates without a name".to_owned()) } else { Ok(text.into()) }
}

impl Tls {
    /// What the client is told to do if there is a host; a unix socket never has TLS.
    pub(super) fn ssl_mode(&self) -> SslMode {
        match self.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        }
    }

    /// Reads the certificates. It looks into files, of the system too, so it belongs on a thread that may block.
    ///
    /// # Errors
    ///
    /// Which file cannot be read or holds no certificate.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, String> {
        let provider = Arc::new(ring::default_provider());
        let is_verifying = match self.mode {
            Mode::Disable | Mode::Prefer => false,
            Mode::Require => self.root.is_some(),
            Mode::VerifyCa | Mode::VerifyFull => true,
        };
        let chain = if is_verifying { Some(self.verifier(&provider)?) } else { None };
        let failed = |error: rustls::Error| format!("TLS cannot be set up: {error}");
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(failed)?;
        let builder = match chain {
            Some(chain) if self.mode == Mode::VerifyFull => builder.with_webpki_verifier(chain),
            chain => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { chain, provider })),
        };
        let config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key_der = PrivateKeyDer::from_pem_file(key);
                let key_der = key_der.map_err(|error| format!("sslkey {}: {error}", key.display()))?;
                builder.with_client_auth_cert(certificates("sslcert", certificate)?, key_der).map_err(failed)?
            }
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
        let mut roots = RootCertStore::empty();
        let found = match &self.root {
            Some(path) => certificates("sslrootcert", path)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let (added, _) = roots.add_parsable_certificates(found);
        if added == 0 {
            return Err(match &self.root {
                Some(path) => format!("sslrootcert {}: no certificate there can be used", path.display()),
                None => "the system trusts no certificate at all; name a file with sslrootcert=/path/to/ca.pem, or \
                         install those of the system: apt-get install ca-certificates"
                    .to_owned(),
            });
        }
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        builder.build().map_err(|error| format!("TLS cannot be set up: {error}"))
    }
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error| format!("{option} {}: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if found.is_empty() {
        Err(format!("{option} {}: there is no certificate in it", path.display()))
    } else {
        Ok(found)
    }
}

/// What to do about a handshake that failed, if that is known.
pub(super) fn advice(error: &Error) -> &'static str {
    let source = std::error::Error::source(error);
    if source.is_some_and(|source| source.to_string() == "server does not support TLS") {
        return "; turn on `ssl` in its configuration, or ask for none with sslmode=disable";
    }
    let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    let cause = io.and_then(std::io::Error::get_ref).and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "; nobody that is trusted has signed the server's certificate: name who has with \
                 sslrootcert=/path/to/ca.pem"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "; the server's certificate is for another host: write a host of the certificate into the URL, or \
                 sslmode=verify-ca"
            }
            _ => "; the server's certificate cannot be trusted",
        },
        _ => "",
    }
}

/// Takes a certificate for any name: one that somebody trusted has signed, or any at all if nobody is asked.
#[derive(Debug)]
struct AnyName {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, once everything else is known to be right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            settled => settled,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_tls_is_taken_out_of_the_url() {
        let url = "postgres://u:p?q@h/d?sslmode=verify-full&connect_timeout=5&sslrootcert=%2Fa%20b.pem";
        let (rest, tls) = split(url).unwrap();
        assert_eq!(rest, "postgres://u:p?q@h/d?connect_timeout=5");
        assert_eq!(tls, Tls { mode: Mode::VerifyFull, root: Some("/a b.pem".into()), client: None });
        assert_eq!(split("postgres://u:p?q@h/d").unwrap(), ("postgres://u:p?q@h/d".to_owned(), Tls::default()));
        let (rest, tls) = split("postgres://h/d?sslmode=verify-ca&sslrootcert=system&sslcert=c&sslkey=k").unwrap();
        assert_eq!(rest, "postgres://h/d");
        let client = Some(("c".into(), "k".into()));
        assert_eq!(tls, Tls { mode: Mode::VerifyCa, root: None, client });
    }

    #[test]
    fn what_cannot_be_is_said_without_the_password() {
        for (query, part) in [
            ("sslmode=allow", "must be disable"),
            ("sslmode=", "must be disable"),
            ("sslrootcert=/x", "needs sslmode"),
            ("sslmode=prefer&sslrootcert=/x", "needs sslmode"),
            ("sslmode=require&sslrootcert=", "without a name"),
            ("sslmode=require&sslrootcert=%2", "hexadecimal"),
            ("sslmode=require&sslrootcert=%ff", "not UTF-8"),
            ("sslcert=/x", "need each other"),
        ] {
            let error = split(&format!("postgres://u:secret@h/d?{query}")).unwrap_err();
            assert!(error.contains(part) && !error.contains("secret"), "{query}: {error}");
        }
    }

    #[test]
    fn a_file_that_holds_no_certificate_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty.pem");
        std::fs::write(&empty, "nothing").unwrap();
        for path in [empty, directory.path().join("missing.pem")] {
            let tls = Tls { mode: Mode::Require, root: Some(path.clone()), client: None };
            let error = tls.connector().map(drop).unwrap_err();
            assert!(error.contains("sslrootcert") && error.contains(path.to_str().unwrap()), "{error}");
            let tls = Tls { mode: Mode::Require, root: None, client: Some((path.clone(), path)) };
            assert!(tls.connector().is_err());
        }
    }
}
