//! TLS towards PostgreSQL: what each `sslmode` takes and refuses, over real servers with certificates made here.

use std::path::PathBuf;

use forebay::sink::{Sink, SinkError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::database::{Database, Kind, postgres_rows, sink_at};
use crate::postgres_server::{Extras, PostgresServer};
use crate::{at, commit, created};

/// Who may connect, and how: a name without a password, one with, and one with a certificate of its own.
const HBA: &str = "hostssl all clerk all scram-sha-256\nhostssl all courier all cert\nhost all forebay all trust\n";

/// A server with a certificate for these names, and the files that a client needs.
struct Secured {
    server: PostgresServer,
    directory: TempDir,
    runtime: tokio::runtime::Runtime,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key.
fn signed(by: &CertifiedIssuer<'static, KeyPair>, common_name: &str, names: &[&str]) -> (String, String) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

impl Secured {
    fn new(names: &[&str]) -> Self {
        let (ours, other) = (authority("ours"), authority("another"));
        let (certificate, key) = signed(&ours, "server", names);
        let (client_certificate, client_key) = signed(&ours, "courier", &[]);
        let directory = tempfile::tempdir().unwrap();
        for (name, contents) in [
            ("ca.pem", ours.pem()),
            ("other.pem", other.pem()),
            ("courier.pem", client_certificate),
            ("courier.key", client_key),
        ] {
            std::fs::write(directory.path().join(name), contents).unwrap();
        }
        let settings = ["ssl=on", "ssl_cert_file=server.crt", "ssl_key_file=server.key", "ssl_ca_file=ca.crt"];
        let files = vec![
            ("server.crt", certificate),
            ("server.key", key),
            ("ca.crt", ours.pem()),
            ("pg_hba.conf", HBA.to_owned()),
        ];
        let extras = Extras { settings: settings.map(str::to_owned).to_vec(), files };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let secured = Self { server: PostgresServer::start_with(&extras), directory, runtime };
        let roles = "CREATE ROLE clerk LOGIN PASSWORD 'secret'; CREATE ROLE courier LOGIN; \
            GRANT pg_read_all_data, pg_write_all_data TO clerk, courier; GRANT CREATE ON SCHEMA public TO clerk, courier";
        secured.runtime.block_on(postgres_rows(&secured.server.url("postgres"), roles));
        secured
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn sink(&self, user: &str, query: &str) -> Box<dyn Sink> {
        let directory = self.directory.path().display();
        let query = query.replace("ca.pem", &format!("{directory}/ca.pem"));
        let url = format!("postgres://{user}@{}/postgres?{query}", self.server.address());
        sink_at(&url, Kind::Postgres, "q/1", &created(), 10_000)
    }

    /// Delivers a record, and says whether that went over TLS.
    fn is_encrypted(&self, user: &str, query: &str) -> bool {
        let mut sink = self.sink(user, query);
        let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'forebay'";
        let rows = self.runtime.block_on(async {
            assert_eq!(sink.check().await, Ok(vec![]), "{query}");
            let after = sink.take_over().await.unwrap_or_else(|error| panic!("{query}: {error}")).through();
            assert_eq!(commit(&mut *sink, after, &["{}"]).await, Ok(()));
            postgres_rows(&self.server.url("postgres"), sql).await
        });
        // The connection of the check may still be going.
        let encrypted: Vec<_> = rows.iter().map(|row| row[0].as_deref() == Some("t")).collect();
        assert!(!encrypted.is_empty() && encrypted.iter().all(|other| *other == encrypted[0]), "{rows:?}");
        encrypted[0]
    }

    /// Why there is no connection.
    fn refusal(&self, user: &str, query: &str) -> String {
        refusal(&self.runtime, &mut *self.sink(user, query))
    }
}

fn refusal(runtime: &tokio::runtime::Runtime, sink: &mut dyn Sink) -> String {
    let problems = runtime.block_on(sink.check()).unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let refused = runtime.block_on(sink.take_over());
    let Err(SinkError::Transient(why)) = refused else { panic!("{refused:?}") };
    assert!(problems[0].contains(&why), "{problems:?} and {why}");
    assert!(!why.contains("secret"), "{why}");
    why
}

#[test]
fn every_mode_works_with_a_server_that_deserves_it() {
    let secured = Secured::new(&["127.0.0.1", "localhost"]);
    for (query, encrypted) in [
        ("sslmode=disable", false),
        ("sslmode=prefer", true),
        ("connect_timeout=10", true),
        ("sslmode=require", true),
        ("sslmode=require&sslrootcert=ca.pem", true),
        ("sslmode=verify-ca&sslrootcert=ca.pem", true),
        ("sslmode=verify-full&sslrootcert=ca.pem", true),
    ] {
        assert_eq!(secured.is_encrypted("forebay", query), encrypted, "{query}");
    }
    // With a password the server proves that it is the one whose certificate we saw.
    assert!(secured.is_encrypted("clerk:secret", "sslmode=verify-full&sslrootcert=ca.pem&channel_binding=require"));
    let refused = secured.refusal("clerk:secret", "sslmode=disable");
    assert!(refused.contains("no encryption"), "{refused}");
    let directory = secured.directory.path().display();
    let client = format!("sslcert={directory}/courier.pem&sslkey={directory}/courier.key");
    assert!(secured.is_encrypted("courier", &format!("sslmode=verify-full&sslrootcert=ca.pem&{client}")));
    let refused = secured.refusal("courier", "sslmode=verify-full&sslrootcert=ca.pem");
    assert!(refused.contains("certificate"), "{refused}");
}

#[test]
fn a_server_that_does_not_is_refused_in_words() {
    let secured = Secured::new(&["db.example"]);
    let other = format!("sslrootcert={}", secured.file("other.pem").display());
    for (query, parts) in [
        (format!("sslmode=require&{other}"), ["UnknownIssuer", "nobody that is trusted has signed"]),
        (format!("sslmode=verify-ca&{other}"), ["UnknownIssuer", "sslrootcert=/path/to/ca.pem"]),
        (format!("sslmode=verify-full&{other}"), ["UnknownIssuer", "sslrootcert=/path/to/ca.pem"]),
        ("sslmode=verify-full&sslrootcert=ca.pem".to_owned(), ["db.example", "is for another host"]),
        ("sslmode=verify-full&sslrootcert=/missing.pem".to_owned(), ["sslrootcert", "/missing.pem"]),
        ("sslmode=allow".to_owned(), ["sslmode", "verify-full"]),
    ] {
        let refused = secured.refusal("clerk:secret", &query);
        for part in parts {
            assert!(refused.contains(part), "{query}: {part:?} is not in {refused}");
        }
    }
    // The chain is right and only the name is not, which these two do not look at.
    assert!(secured.is_encrypted("clerk:secret", "sslmode=verify-ca&sslrootcert=ca.pem"));
    assert!(secured.is_encrypted("clerk:secret", "sslmode=require"));
    // Whatever the system trusts, it is not an authority that was made a moment ago.
    let refused = secured.refusal("clerk:secret", "sslmode=verify-full");
    assert!(refused.contains("sslrootcert=/path/to/ca.pem"), "{refused}");
}

#[test]
fn a_server_without_tls_is_refused_unless_that_is_allowed() {
    let database = Database::new(Kind::Postgres);
    let url = database.url.replace("forebay@", "forebay:secret@");
    let sink = |mode: &str| sink_at(&format!("{url}?sslmode={mode}"), Kind::Postgres, "q/1", &created(), 10_000);
    for mode in ["require", "verify-ca&sslrootcert=system"] {
        // Without any certificate of the system's the second is refused for that.
        let refused = refusal(&database.runtime, &mut *sink(mode));
        assert!(refused.contains("does not support TLS") || refused.contains("ca-certificates"), "{refused}");
    }
    for mode in ["prefer", "disable"] {
        assert_eq!(database.runtime.block_on(sink(mode).take_over()), at(0));
    }
}
