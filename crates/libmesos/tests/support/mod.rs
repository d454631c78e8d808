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
    /// `None`, with a message, on a machine without Spark's jars or a JDK.
    pub async fn start(class: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Option<Self> {
        let classes = classes()?;
        let mut child = Command::new("java")
            .args(["-Xcheck:jni", "-Xms64m", "-Xmx64m", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC", "-cp"])
            .arg(classes.class_path())
            .arg(class)
            .args(arguments)
            .env_remove("JAVA_TOOL_OPTIONS")
            .env("MESOS_NATIVE_JAVA_LIBRARY", library())
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
        Some(Self { child, input, output, errors, heard: Vec::new() })
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

fn classes() -> Option<&'static Classes> {
    static CLASSES: OnceLock<Option<Classes>> = OnceLock::new();
    CLASSES
        .get_or_init(|| {
            let Some(bindings) = bindings() else {
                eprintln!("SKIPPED: no mesos-*-shaded-protobuf.jar; set SPARK_HOME or BELLOWS_SPARK_JARS");
                return None;
            };
            let directory = tempfile::tempdir().expect("a temporary directory");
            let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java");
            let compiled = std::process::Command::new("javac")
                .arg("-cp")
                .arg(&bindings)
                .arg("-d")
                .arg(directory.path())
                .args([sources.join("Probe.java"), sources.join("ExecutorProbe.java")])
                .output();
            match compiled {
                Err(error) => {
                    eprintln!("SKIPPED: javac: {error}; install a JDK (openjdk-17-jdk-headless)");
                    None
                }
                Ok(output) => {
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                    Some(Classes { directory, bindings })
                }
            }
        })
        .as_ref()
}

/// Spark's jar of Mesos' Java bindings.
fn bindings() -> Option<PathBuf> {
    let given = std::env::var_os("BELLOWS_SPARK_JARS").map(PathBuf::from);
    let spark = std::env::var_os("SPARK_HOME").map(|home| Path::new(&home).join("jars"));
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache");
    let cached = || find(&cache, 8, &|path| path.ends_with("pyspark/jars"));
    let jars = given.or(spark).or_else(cached)?;
    let is_binding = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("mesos-") && name.ends_with("-shaded-protobuf.jar")
    };
    find(&jars, 1, &is_binding)
}

fn find(directory: &Path, depth: usize, wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?;
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let found = paths.iter().find(|path| wanted(path)).cloned();
    found.or_else(|| {
        let deeper = paths.iter().filter(|path| depth > 1 && path.is_dir() && !path.is_symlink());
        deeper.into_iter().find_map(|path| find(path, depth - 1, wanted))
    })
}

/// `libmesos.so` of this build, beside the test's own directory.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let directory = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    directory.join("libmesos.so")
}
