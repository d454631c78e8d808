//! Java programs that load the library, and what the test says to them.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

#[path = "../../../client/tests/support/mod.rs"]
pub mod server;

use server::PATIENCE;

/// A running Java program. Killed when dropped.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
    /// All that was written to standard output.
    heard: Vec<String>,
}

impl Program {
    pub async fn start(class: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let classes = classes();
        let mut child = Command::new("java")
            .args(["-Xcheck:jni", "-Xms64m", "-Xmx64m", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC", "-cp"])
            .arg(classes.class_path())
            .arg(class)
            .args(arguments)
            .env_remove("JAVA_TOOL_OPTIONS")
            .env("MESOS_NATIVE_JAVA_LIBRARY", bellows_testkit::binaries().join("libmesos.so"))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("java starts");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        let errors = BufReader::new(child.stderr.take().expect("piped")).lines();
        let input = child.stdin.take();
        Self { child, input, output, errors, heard: Vec::new() }
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("running")
    }

    pub async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await.expect("a line in time");
        let Some(line) = line.expect("readable") else {
            panic!(
                "the program ended:\n{}\n{}",
                self.heard.join("\n"),
                self.rest_of_errors().await.join("\n")
            );
        };
        self.heard.push(line.clone());
        line
    }

    /// The next line is this one.
    #[track_caller]
    pub fn expect(&mut self, expected: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let line = self.line().await;
            assert_eq!(line, expected, "at {caller}; heard before:\n{}", self.heard.join("\n"));
        }
    }

    /// The next lines are these, in any order.
    pub async fn expect_all(&mut self, mut expected: Vec<&str>) {
        let mut lines = Vec::new();
        for _ in &expected {
            lines.push(self.line().await);
        }
        lines.sort_unstable();
        expected.sort_unstable();
        assert_eq!(lines, expected, "heard before:\n{}", self.heard.join("\n"));
    }

    pub async fn tell(&mut self, command: &str) {
        let input = self.input.as_mut().expect("open");
        input.write_all(format!("{command}\n").as_bytes()).await.expect("the program reads");
    }

    /// Tells a command and gives its answer; callbacks must not come between.
    pub async fn ask(&mut self, command: &str) -> String {
        self.tell(command).await;
        let line = self.line().await;
        line.strip_prefix("= ").unwrap_or_else(|| panic!("{command} is answered with {line}")).to_owned()
    }

    /// Waits for the program's end by itself. Gives its exit status and what it wrote to standard error; the JVM
    /// must have found nothing wrong with the library's use of JNI.
    pub async fn end(mut self) -> (std::process::ExitStatus, Vec<String>) {
        drop(self.input.take());
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("an end in time");
        while let Some(line) = self.output.next_line().await.expect("readable") {
            self.heard.push(line);
        }
        let errors = self.rest_of_errors().await;
        // -Xcheck:jni writes its findings to standard output.
        for line in self.heard.iter().chain(&errors) {
            assert!(!line.contains("WARNING") && !line.contains("FATAL ERROR in native"), "{line}");
        }
        (status.expect("waited"), errors)
    }

    async fn rest_of_errors(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Ok(Some(line)) = self.errors.next_line().await {
            lines.push(line);
        }
        lines
    }
}

/// The compiled programs, and Mesos' bindings beside them.
struct Classes {
    directory: tempfile::TempDir,
    bindings: PathBuf,
}

impl Classes {
    fn class_path(&self) -> String {
        format!("{}:{}", self.bindings.display(), self.directory.path().display())
    }
}

fn classes() -> &'static Classes {
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let bindings = bindings();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java");
        let compiled = std::process::Command::new("javac")
            .arg("-cp")
            .arg(&bindings)
            .arg("-d")
            .arg(directory.path())
            .args([sources.join("Probe.java"), sources.join("ExecutorProbe.java")])
            .output()
            .expect("javac is there: install a JDK (openjdk-17-jdk-headless)");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Classes { directory, bindings }
    })
}

/// Spark's jar of Mesos' Java bindings.
fn bindings() -> PathBuf {
    let jars = std::fs::read_dir(bellows_testkit::Spark::find().jars()).expect("Spark has jars");
    let is_binding = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("mesos-") && name.ends_with("-shaded-protobuf.jar")
    };
    jars.flatten().map(|entry| entry.path()).find(is_binding).expect("Spark 3 carries Mesos' bindings")
}
