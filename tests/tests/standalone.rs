//! Unmodified Spark Standalone with `bellows shuffle` in place of its workers' own shuffle service, in the clear and
//! protected in every way that Spark knows.
use anyhow::{Context, Result, ensure};
use bellows_testkit::{
    Application, ShuffleService, Spark, Standalone, eventually, on_a_command_line, repository, write_private,
};
use serde_json::Value;
use std::{path::Path, time::Duration};
use tempfile::TempDir;

/// Long enough for a few JVMs to start on two busy cores.
const LONG: Duration = Duration::from_secs(150);

const SECRET: &str = "S3cret-of-the-standalone-tests";
const AUTHENTICATE: [(&str, &str); 2] =
    [("spark.authenticate", "true"), ("spark.authenticate.secret", SECRET)];
/// Otherwise executors on one host read each other's files, and the service has nothing to do.
const BY_THE_SERVICE: (&str, &str) = ("spark.shuffle.readHostLocalDisk", "false");
const CRYPTO: (&str, &str) = ("spark.network.crypto.enabled", "true");

/// How an application protects its connections, and what the service then insists on.
struct Protection {
    settings: &'static [(&'static str, &'static str)],
    flags: &'static [&'static str],
}

const AUTHENTICATED: Protection = Protection { settings: &[], flags: &[] };
const SASL: Protection = Protection {
    settings: &[("spark.authenticate.enableSaslEncryption", "true")],
    flags: &["--always-encrypt"],
};
/// As both have it by default: version 1 of the exchange, AES in counter mode.
const COUNTER: Protection = Protection { settings: &[CRYPTO], flags: &["--no-sasl-fallback"] };
const GCM: Protection = Protection {
    settings: &[
        CRYPTO,
        ("spark.network.crypto.authEngineVersion", "2"),
        ("spark.network.crypto.cipher", "AES/GCM/NoPadding"),
    ],
    flags: &["--no-sasl-fallback"],
};

fn app(name: &str) -> String {
    repository().join("tests/apps").join(name).to_string_lossy().into_owned()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is UTF-8")
}

/// Where executors write and a service reads, and a secrets file beside it.
struct Disk {
    dir: TempDir,
    secrets: String,
}

impl Disk {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("disk"))?;
        let secrets = dir.path().join("secrets");
        write_private(&secrets, SECRET)?;
        let secrets = text(&secrets)?.to_owned();
        Ok(Self { dir, secrets })
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("disk")
    }

    async fn cluster(&self, spark: &Spark, settings: &[(&str, &str)]) -> Result<Standalone> {
        Standalone::start(spark, &self.path(), settings).await
    }

    async fn service(&self, flags: &[&str]) -> Result<ShuffleService> {
        ShuffleService::start(&self.path(), flags).await
    }

    async fn service_with_secrets(&self, flags: &[&str]) -> Result<ShuffleService> {
        self.service(&[&["--secrets-file", &self.secrets], flags].concat()).await
    }
}

/// Runs the application to where its first burst is over and its executors have gone; returns its id.
async fn first_burst(cluster: &Standalone, application: &mut Application, counter: &str) -> Result<String> {
    let started = application.event("started", LONG).await?;
    let first = application.event("first", LONG).await?;
    ensure!(first["correct"] == true && first[counter].as_u64() > Some(0), "{first}");
    cluster.executors_gone(LONG).await?;
    Ok(started["framework"].as_str().context("the application names itself")?.to_owned())
}

/// The second burst gives the same and computes nothing again; returns what the service then says of the application.
async fn second_burst(
    service: &ShuffleService,
    application: &mut Application,
    id: &str,
    counter: &str,
) -> Result<Value> {
    application.go()?;
    let second = application.event("second", LONG).await?;
    let first = application.event("first", LONG).await?;
    ensure!(second["correct"] == true, "the second burst's result differs: {second}");
    ensure!(second[counter] == first[counter], "computed again: {first}, then {second}");
    let served = service.application(id)?;
    application.finish(LONG).await?;
    Ok(served)
}

/// One executor writes 24 map outputs of 12 partitions and goes; another one reads them from the service.
async fn breathe(cluster: &Standalone, service: &ShuffleService, settings: &[(&str, &str)]) -> Result<()> {
    let settings = [&[BY_THE_SERVICE], settings].concat();
    let mut application = cluster.submit(&app("elastic.py"), service.port(), &settings)?;
    let id = first_burst(cluster, &mut application, "mapped").await?;
    ensure!(!on_a_command_line(SECRET), "the secret is in the process list");
    eventually("the executor's end to be noticed, though nobody tells it", LONG, || async {
        let application = service.application(&id)?;
        ensure!(application["departed_executors"] == 1 && application["executors"] == 0, "{application}");
        Ok(())
    })
    .await?;
    let before = service.application(&id)?["blocks_served"].as_u64().context("a number")?;
    let served = second_burst(service, &mut application, &id, "mapped").await?;
    let blocks = served["blocks_served"].as_u64().context("a number")? - before;
    ensure!(blocks >= 24 * 12, "the service served {blocks} blocks of the second burst: {}", service.log());
    service.remove(&id)?;
    ensure!(service.application(&id).is_err(), "{id} was removed and is there");
    Ok(())
}

/// Without a secret: what was shuffled, and an RDD on the disk of an executor that has gone.
async fn plain(spark: &Spark) -> Result<()> {
    let disk = Disk::new()?;
    let service = disk.service(&["--keep-rdd-blocks"]).await?;
    let mut cluster = disk.cluster(spark, &[]).await?;
    breathe(&cluster, &service, &[]).await?;

    let settings = [("spark.shuffle.service.fetch.rdd.enabled", "true"), ("spark.locality.wait", "0s")];
    let mut application = cluster.submit(&app("persisted.py"), service.port(), &settings)?;
    let id = first_burst(&cluster, &mut application, "computed").await?;
    // The next executor goes to the freer worker, and has to ask: the block's directory is on another host.
    cluster.add_worker("127.0.0.2", 4).await?;
    let served = second_burst(&service, &mut application, &id, "computed").await?;
    ensure!(served["blocks_served"].as_u64() >= Some(8), "{served}: {}", service.log());
    Ok(())
}

async fn protected(spark: &Spark) -> Result<()> {
    let disk = Disk::new()?;
    let cluster = disk.cluster(spark, &AUTHENTICATE).await?;
    for Protection { settings, flags } in [AUTHENTICATED, SASL, COUNTER, GCM] {
        let service = disk.service_with_secrets(flags).await?;
        breathe(&cluster, &service, settings).await.with_context(|| format!("with {settings:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn spark_3_plain() -> Result<()> {
    plain(&Spark::find()).await
}

#[tokio::test]
async fn spark_3_authenticated_and_encrypted() -> Result<()> {
    protected(&Spark::find()).await
}

#[tokio::test]
async fn spark_4_plain() -> Result<()> {
    plain(&Spark::find_4()).await
}

#[tokio::test]
async fn spark_4_authenticated_and_encrypted() -> Result<()> {
    protected(&Spark::find_4()).await
}

#[tokio::test]
async fn spark_4_over_tls() -> Result<()> {
    let disk = Disk::new()?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let (certificate, key) = (disk.dir.path().join("certificate.pem"), disk.dir.path().join("key.pem"));
    write_private(&certificate, &made.cert.pem())?;
    write_private(&key, &made.signing_key.serialize_pem())?;
    let (certificate, key) = (text(&certificate)?, text(&key)?);
    let tls = [
        ("spark.ssl.rpc.enabled", "true"),
        // Spark takes PEM files only so.
        ("spark.ssl.rpc.openSslEnabled", "true"),
        ("spark.ssl.rpc.certChain", certificate),
        ("spark.ssl.rpc.privateKey", key),
    ];
    let cluster = disk.cluster(&Spark::find_4(), &[&AUTHENTICATE[..], &tls].concat()).await?;
    let service = disk.service_with_secrets(&["--tls-certificate", certificate, "--tls-key", key]).await?;
    breathe(&cluster, &service, &[]).await
}
