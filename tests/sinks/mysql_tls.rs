//! Connections to MySQL or MariaDB that are encrypted.

use crate::database::{Kind, sink_with};
use crate::mysql_server::MysqlServer;
use crate::{at, created};

/// Has openssl make a certificate for 127.0.0.1, signed by itself; gives its path and that of its key.
fn certificate(directory: &std::path::Path) -> (String, String) {
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| directory.join(name).display().to_string());
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"];
    let output = std::process::Command::new("openssl")
        .args(request)
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .expect("install openssl: apt-get install openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The server is another account.
    for file in [&certificate, &key] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }
    (certificate, key)
}

#[test]
fn tls_is_used_where_the_url_asks_for_it_and_the_server_is_who_it_should_be() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (certificate, key) = certificate(directory.path());
    let server = MysqlServer::start_with(&[
        &format!("--ssl-cert={certificate}"),
        &format!("--ssl-key={key}"),
        "--require-secure-transport=ON",
    ]);
    let plain = server.url("forebay");
    let asking = format!("{plain}?require_ssl=true");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let take_over = |url: &str, tls_ca_file: &str| {
        runtime.block_on(sink_with(url, Kind::Mysql, &created(), &[("tls_ca_file", tls_ca_file)]).take_over())
    };
    assert_eq!(take_over(&asking, &certificate), at(0));
    assert_eq!(take_over(&format!("{asking}&verify_ca=false"), ""), at(0));
    for (url, tls_ca_file, why) in [
        (&plain, "", "denied"),
        (&plain, certificate.as_str(), "require_ssl=true"),
        // Nobody that everybody trusts has signed it.
        (&asking, "", "certificate"),
        (&asking.replace("127.0.0.1", "localhost"), certificate.as_str(), "certificate"),
        (&asking, "/nonexistent.pem", "No such file"),
    ] {
        let refused = take_over(url, tls_ca_file).unwrap_err().to_string();
        assert!(refused.contains(why), "{url} {tls_ca_file}: {refused}");
    }
}
