//! Certificates for brokers that speak TLS, made by openssl in a directory of the test's.

use std::path::Path;
use std::process::{Command, Stdio};

/// Makes an authority `ca.pem`, and `key.pem` with the `certificate.pem` that it has signed for `localhost`.
///
/// # Panics
///
/// If openssl isn't installed.
pub fn make_certificates(directory: &Path) {
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = ["-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(directory, &[&new[..], &authority[..]].concat());
    let request = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    openssl(directory, &[&new[..], &request[..], &["-keyout", "key.pem", "-out", "request.pem"]].concat());
    let sign = ["x509", "-req", "-days", "2", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key"];
    let signed = ["-CAcreateserial", "-copy_extensions", "copy", "-out", "certificate.pem"];
    openssl(directory, &[&sign[..], &signed[..]].concat());
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new("openssl");
    command.current_dir(directory).args(arguments).stderr(Stdio::null());
    let is_done = command.status().expect("install OpenSSL: apt-get install openssl").success();
    assert!(is_done, "openssl {arguments:?}");
}
