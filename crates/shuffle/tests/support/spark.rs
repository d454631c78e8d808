//! Spark's own client class, run in a JVM against the service under test.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use bellows_shuffle::Running;

pub struct SparkClient<'a> {
    pub jars: &'a Path,
    pub service: &'a Running,
    pub app: &'a str,
    pub settings: &'a str,
    pub secret: &'a str,
}

impl SparkClient<'_> {
    /// Runs the steps (see `ShuffleClient.java`); returns the lines it printed.
    pub async fn run(&self, steps: &[&str]) -> Vec<String> {
        let mut command = Command::new("java");
        let address = self.service.local_addr();
        command
            .args(["-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}/*:{}", self.jars.display(), compiled(self.jars).display()))
            .arg("ShuffleClient")
            .args([
                address.ip().to_string(),
                address.port().to_string(),
                self.app.into(),
                self.settings.into(),
            ])
            .args(steps)
            .env("SECRET", self.secret);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("runs");
        let output = output.expect("java is there");
        let lines = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<String> =
            lines.lines().filter_map(|line| Some(line.strip_prefix("> ")?.to_owned())).collect();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{lines:?}\n{errors}");
        lines
    }
}

/// Where the compiled client lies; compiled once per run of the tests.
fn compiled(jars: &Path) -> &'static Path {
    static CLASSES: OnceLock<tempfile::TempDir> = OnceLock::new();
    let classes = CLASSES.get_or_init(|| {
        let out = tempfile::tempdir().expect("directory");
        let status = Command::new("javac")
            .args(["-nowarn", "-cp"])
            .arg(jars.join("*"))
            .arg("-d")
            .arg(out.path())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java/ShuffleClient.java"))
            .status();
        assert!(status.expect("javac is there").success());
        out
    });
    classes.path()
}
