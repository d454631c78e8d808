//! `bellows up`: the embedded cluster until Ctrl-C, and the line that runs Spark on it.

use std::path::Path;

use bellows_containment::{PASSAGE_DIR, make_dirs};
use bellows_runtime::{LogFormat, init_logging};

use crate::args::UpArgs;
use crate::embedded::{Embedded, Options};
use crate::error::Error;
use crate::output::out;
use crate::{serve, spark, submit};

/// Spark's Mesos backend hands neither of the two on to its executors.
const SECRET_NOTE: &str = "\
The shuffle service asks for a secret. In conf/spark-defaults.conf: spark.authenticate true, spark.authenticate.secret S
In conf/spark-env.sh, for executors: _SPARK_AUTH_SECRET=S
                                     SPARK_EXECUTOR_OPTS=\"$SPARK_EXECUTOR_OPTS -Dspark.authenticate=true\"";

pub fn run(args: UpArgs) -> Result<(), Error> {
    // Agents of this process lose their master only at its end, and of a task that fails the master tells, too.
    init_logging("warn,bellows_master::ingress::link=error,bellows_agent::narrate=error", LogFormat::Text);
    let work_dir = match &args.work_dir {
        Some(work_dir) => work_dir.clone(),
        None => spark::user_directory("XDG_STATE_HOME", ".local/state")?,
    };
    if let Some(warning) = making(&work_dir) {
        tracing::warn!("{warning}");
    }
    make_dirs(&work_dir, PASSAGE_DIR).map_err(|source| Error::io("creating", &work_dir, source))?;
    let work_dir = work_dir.canonicalize().map_err(|source| Error::io("finding", &work_dir, source))?;
    let UpArgs { size, listen, clients, hosts, offers, .. } = args;
    let options = Options { size, listen, clients, hosts, offer_timeout: offers.offer_timeout.0, work_dir };
    crate::serve(until_told(options))
}

async fn until_told(options: Options) -> Result<(), Error> {
    let mut cluster = Embedded::start(&options).await?;
    let size = &options.size;
    out!(
        "{} agents of {} CPUs and {} MB, one shuffle service; state in {}",
        size.agents,
        size.cpus,
        size.mem,
        options.work_dir.display()
    );
    out!("page    {}", cluster.page());
    out!("master  mesos://{}", cluster.master());
    let submit = cluster.for_submit().submit_command();
    out!("\nRun Spark on it with `{submit} YOUR_APPLICATION`, or with your own spark-submit:\n");
    match spark::find_libmesos() {
        Ok(library) => out!("{} \\\n  YOUR_APPLICATION", submit::example(&cluster.for_submit(), &library)),
        // The cluster serves frameworks of other kinds, too.
        Err(error) => out!("{}", crate::error::Shown(&error)),
    }
    if options.clients.secrets_file.is_some() {
        out!("\n{SECRET_NOTE}");
    }
    out!("\nCtrl-C ends the cluster and everything on it.");
    let outcome = tokio::select! {
        told = serve::until_told() => told,
        error = cluster.ended() => Err(error),
    };
    cluster.stop().await;
    outcome
}

/// What is to be known before the directory is made, once.
fn making(work_dir: &Path) -> Option<String> {
    let shown = work_dir.display();
    (!work_dir.exists()).then(|| {
        format!("makes {shown}, where this cluster keeps all that it has; --work-dir chooses another")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_not_made_without_a_word() {
        let there = tempfile::tempdir().expect("temporary directory");
        assert_eq!(making(there.path()), None);
        let missing = there.path().join("state");
        let warning = making(&missing).expect("a warning");
        assert!(
            warning.starts_with(&format!("makes {}, ", missing.display())) && warning.contains("--work-dir")
        );
    }
}
