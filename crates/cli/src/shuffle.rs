//! `bellows shuffle`: the shuffle service as a process of its own, and what an operator asks of one that runs.

mod find;

use std::io::ErrorKind;
use std::net::SocketAddr;

use bellows_runtime::{LogFormat, init_logging};
use bellows_shuffle::{Auth, AuthPolicy, Config, Error as ServiceError, Removal, Running, Status, Tls};

use crate::args::{ShuffleClientArgs, ShuffleRemoveArgs, ShuffleServeArgs, ShuffleStatusArgs};
use crate::error::Error;
use crate::output::{Table, bytes, out};
use crate::serve::{fatal, unless_hurried, until_told};

const SECRETS_HINT: &str = "\
one secret a line: SECRET for all applications, or APPLICATION SECRET; then chmod 600
Spark's side of it is spark.authenticate=true with the same spark.authenticate.secret";
const ROOTS_HINT: &str = "\
name them with --shuffle-dirs: what SPARK_LOCAL_DIRS names on Spark's workers, or the agent's --shuffle-dirs
to serve this machine alone, listen with --ip 127.0.0.1";
const IN_USE_HINT: &str = "end that one, or give this one a directory of its own with --work-dir";
const TLS_HINT: &str = "\
both files are PEM and the key is not encrypted; from a Java keystore:
keytool -importkeystore -srckeystore KEYSTORE -destkeystore k.p12 -deststoretype PKCS12
openssl pkcs12 -in k.p12 -nokeys -out certificate.pem; openssl pkcs12 -in k.p12 -nocerts -nodes -out key.pem";

pub async fn run(args: ShuffleServeArgs) -> Result<(), Error> {
    init_logging("info", LogFormat::Text);
    let mut config = configure(args)?;
    if config.metrics_listen.is_some() {
        // Whoever collects metrics may know this machine by its full name.
        config.allow_hosts.extend(bellows_names::host_name().await.map(|own| own.name));
    }
    let shuffle = start(config, "--port").await?;
    tokio::select! {
        told = until_told() => told?,
        ended = shuffle.ended() => return Err(fatal("the shuffle service", ended)),
    }
    unless_hurried(shuffle.stop()).await;
    Ok(())
}

fn configure(args: ShuffleServeArgs) -> Result<Config, Error> {
    let socket = args.socket.unwrap_or_else(|| args.work_dir.join(find::SOCKET));
    let mut config = Config::new(args.work_dir);
    config.listen = SocketAddr::new(args.ip, args.port);
    config.admin_socket = Some(socket);
    config.metrics_listen = args.metrics_port.map(|port| SocketAddr::new(args.ip, port));
    config.allow_hosts = args.hosts.allow_hosts;
    config.allowed_roots = args.shuffle_dirs;
    config.heartbeat_cleanup = args.heartbeat_cleanup;
    config.orphan_age = args.orphan_age.0;
    config.limits.connections = args.max_connections as usize;
    ask_of_clients(&mut config, &args.clients)?;
    config.tls = args
        .tls_certificate
        .zip(args.tls_key)
        .map(|(certificate_chain, private_key)| Tls { certificate_chain, private_key });
    Ok(config)
}

/// What clients have to prove, and what is kept for them.
pub fn ask_of_clients(config: &mut Config, args: &ShuffleClientArgs) -> Result<(), Error> {
    config.keep_rdd_blocks = args.keep_rdd_blocks;
    let policy =
        AuthPolicy { sasl_fallback: !args.no_sasl_fallback, sasl_always_encrypt: args.always_encrypt };
    config.auth = args.secrets_file.clone().map(|secrets_file| Auth { secrets_file, policy });
    // Who asks for encryption must not get a service that lets everybody in.
    if config.auth.is_none() && policy != AuthPolicy::default() {
        return Err(Error::usage(
            "--always-encrypt and --no-sasl-fallback are about clients that have a secret",
            "name the secrets with --secrets-file",
        ));
    }
    Ok(())
}

/// `flag` is the one that chooses the port.
pub async fn start(config: Config, flag: &'static str) -> Result<Running, Error> {
    let (address, metrics) = (config.listen, config.metrics_listen);
    bellows_shuffle::start(config).await.map_err(|error| match &error {
        ServiceError::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse => {
            Error::AddressInUse { what: "shuffle service", address, flag }
        }
        ServiceError::BindMetrics { source, .. } if source.kind() == ErrorKind::AddrInUse => {
            let address = metrics.unwrap_or(address);
            Error::AddressInUse { what: "metrics of the shuffle service", address, flag: "--metrics-port" }
        }
        _ => {
            let hint = match &error {
                ServiceError::Secrets { .. } => SECRETS_HINT,
                ServiceError::Tls { .. } => TLS_HINT,
                ServiceError::NoRoots { .. } => ROOTS_HINT,
                ServiceError::InUse { .. } => IN_USE_HINT,
                _ => "",
            };
            Error::failed(format!("the shuffle service does not start: {error}"), hint)
        }
    })
}

pub async fn status(args: ShuffleStatusArgs) -> Result<(), Error> {
    let (_, status) = find::find(&args.socket).await?;
    if args.json {
        out!("{}", serde_json::to_string_pretty(&status).expect("invariant: plain values are JSON"));
    } else {
        out!("{}", status_text(&status));
    }
    Ok(())
}

pub async fn remove(args: ShuffleRemoveArgs) -> Result<(), Error> {
    let app = &args.application;
    let (client, _) = find::find(&args.socket).await?;
    let removal = client.remove_app(app).await.map_err(|error| Error::failed(error.to_string(), ""))?;
    if removal == Removal::default() {
        return Err(Error::NotFound(format!("the shuffle service knows no application {app}")));
    }
    out!("{}", removal_text(app, &removal));
    match removal.kept.is_empty() {
        true => Ok(()),
        false => Err(Error::failed(
            format!("not deleted: {}", removal.kept.join("; ")),
            "the service tries again every hour where a disk failed or an executor still wrote; delete by hand what is left \
             otherwise",
        )),
    }
}

fn removal_text(app: &str, removal: &Removal) -> String {
    if removal.executors == 0 && removal.known {
        return format!("{app}: forgotten; no executor of it was registered");
    }
    let (executors, files, bytes) = (removal.executors, removal.files, bytes(removal.bytes));
    format!("{app}: {executors} executors forgotten; {files} files, {bytes} deleted")
}

fn status_text(status: &Status) -> String {
    let mut table =
        Table::new(&["APPLICATION", "EXECUTORS", "DEPARTED", "BLOCKS", "BYTES", "FOR DEPARTED", "ON DISK"]);
    for (id, app) in &status.applications {
        table.row([
            id.clone(),
            app.executors.to_string(),
            app.departed_executors.to_string(),
            app.blocks_served.to_string(),
            bytes(app.bytes_served),
            bytes(app.departed_bytes_served),
            app.disk_bytes.map_or_else(|| "-".to_owned(), bytes),
        ]);
    }
    let mut text = table.render("no applications");
    text += &format!(
        "\n\n{} executors registered; {} blocks, {} served over {} requests; p50 {} µs, p99 {} µs; \
         {} connections open, {} blocks being sent",
        status.registered_executors,
        status.blocks_served,
        bytes(status.bytes_served),
        status.latency.requests,
        status.latency.p50_us,
        status.latency.p99_us,
        status.open_connections,
        status.chunks_in_flight
    );
    for (kind, count) in &status.errors {
        text += &format!("\n{count} errors: {kind}");
    }
    for (disk, count) in &status.disk_errors {
        text += &format!("\n{count} errors of the disk at {disk}");
    }
    for (disk, why) in &status.disks_left_out {
        text += &format!("\nthe disk at {disk} is left out: {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_essentials_of_a_shuffle_service() {
        let mut status = Status { blocks_served: 300, bytes_served: 20_000_000, ..Default::default() };
        status.applications.insert(
            "m-0001".to_owned(),
            bellows_shuffle::AppStatus {
                executors: 2,
                departed_executors: 6,
                blocks_served: 300,
                bytes_served: 20_000_000,
                departed_blocks_served: 288,
                departed_bytes_served: 14_400_000,
                disk_bytes: Some(15_000_000),
            },
        );
        status.registered_executors = 8;
        status.errors.insert("not_registered".to_owned(), 3);
        status.disk_errors.insert("/data/1".to_owned(), 2);
        insta::assert_snapshot!(status_text(&status));
        insta::assert_snapshot!("idle", status_text(&Status::default()));
    }

    #[test]
    fn a_removal_of_nothing_but_a_driver_is_one() {
        let mut removal = Removal { known: true, ..Removal::default() };
        assert_eq!(removal_text("m-1", &removal), "m-1: forgotten; no executor of it was registered");
        removal = Removal { executors: 2, files: 3, bytes: 4000, ..removal };
        assert_eq!(removal_text("m-1", &removal), "m-1: 2 executors forgotten; 3 files, 4.00 kB deleted");
    }

    #[test]
    fn encryption_is_not_asked_of_clients_without_secrets() {
        let mut config = Config::new("/nonexistent");
        let mut args = ShuffleClientArgs { always_encrypt: true, ..Default::default() };
        assert!(matches!(ask_of_clients(&mut config, &args), Err(Error::Usage { .. })));
        args.secrets_file = Some("/nonexistent/secrets".into());
        ask_of_clients(&mut config, &args).expect("meant");
        let policy = config.auth.expect("asked for").policy;
        assert!(policy.sasl_always_encrypt && policy.sasl_fallback);
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_said_with_a_hint() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut config = Config::new(directory.path().join("work"));
        let missing = directory.path().join("none");
        let args = ShuffleClientArgs { secrets_file: Some(missing.clone()), ..Default::default() };
        ask_of_clients(&mut config, &args).expect("meant");
        let start = async |config| start(config, "--port").await.map(|_| ());
        let error = start(config.clone()).await.expect_err("no secrets");
        assert!(error.to_string().contains("none") && error.hint().is_some_and(|hint| hint.contains("600")));
        config.auth = None;
        let error = start(config.clone()).await.expect_err("any directory");
        assert!(error.to_string().contains("0.0.0.0:7337"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("--shuffle-dirs")));
        config.allowed_roots = vec![directory.path().to_owned()];
        config.tls = Some(Tls { certificate_chain: missing.clone(), private_key: missing });
        let error = start(config).await.expect_err("no certificate");
        assert!(error.to_string().contains("none") && error.hint().is_some_and(|hint| hint.contains("PEM")));
    }

    #[tokio::test]
    async fn a_port_in_use_names_its_flag() {
        let taken = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let taken = taken.local_addr().map(|address| (taken, address)).expect("bound");
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut config = Config::new(directory.path());
        config.listen = taken.1;
        let error = start(config.clone(), "--shuffle-port").await.map(|_| ()).expect_err("in use");
        assert_eq!(error.to_string(), format!("shuffle service: {} is in use", taken.1));
        assert!(error.hint().is_some_and(|hint| hint.contains("with --shuffle-port (")));
        config.listen.set_port(0);
        config.metrics_listen = Some(taken.1);
        let error = start(config, "--shuffle-port").await.map(|_| ()).expect_err("in use");
        assert_eq!(error.to_string(), format!("metrics of the shuffle service: {} is in use", taken.1));
        assert!(error.hint().is_some_and(|hint| hint.contains("with --metrics-port (")));
    }

    #[tokio::test]
    async fn a_directory_in_use_is_named_with_its_holder() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut config = Config::new(directory.path());
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = start(config.clone(), "--port").await.expect("free");
        let error = start(config, "--port").await.map(|_| ()).expect_err("in use");
        first.stop().await;
        let holder = format!("another shuffle service (process {})", std::process::id());
        assert!(error.to_string().contains(&format!("{} is in use by {holder}", directory.path().display())));
        assert!(error.hint().is_some_and(|hint| hint.contains("--work-dir")), "{error}");
    }
}
