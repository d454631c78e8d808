//! `docs/spark-settings.md`: no setting of Spark's Mesos backend is missing there, and each does what is said of it. Those
//! of drivers that Spark's dispatcher starts are in `dispatcher.rs`.
use anyhow::{Context, Result, ensure};
use bellows_testkit::{
    Application, Cluster, ClusterOptions, Processes, Spark, binaries, eventually, get_json, processes_of,
    repository,
};
use std::{collections::BTreeSet, fs, io::Read as _, path::Path, process::Command, time::Duration};

/// Only a failure waits so long.
const LONG: Duration = Duration::from_secs(150);

/// All `spark.mesos.*` settings that the backend's classes name.
fn settings() -> BTreeSet<String> {
    let jars =
        fs::read_dir(Spark::find().jars()).expect("a distribution").flatten().map(|entry| entry.path());
    let is_backend = |jar: &Path| {
        jar.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("spark-mesos_"))
    };
    let jar = jars.into_iter().find(|jar| is_backend(jar)).expect("Spark 3.5 has a Mesos backend");
    let mut archive = zip::ZipArchive::new(fs::File::open(jar).expect("readable")).expect("a jar");
    let mut found = BTreeSet::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).expect("an entry");
        if entry.name().expect("text").ends_with(".class") {
            let mut class = Vec::new();
            entry.read_to_end(&mut class).expect("whole");
            found.extend(constants(&class));
        }
    }
    // Put together at run time, of `driver` or `executor` and these.
    for of in ["driver", "executor"] {
        for secret in ["names", "values", "envkeys", "filenames"] {
            found.insert(format!("spark.mesos.{of}.secret.{secret}"));
        }
    }
    found
}

/// Strings stand in a class file as their length in two bytes and their bytes.
fn constants(class: &[u8]) -> impl Iterator<Item = String> {
    const PREFIX: &[u8] = b"spark.mesos.";
    let starts = (2..class.len()).filter(|&at| class[at..].starts_with(PREFIX));
    starts.filter_map(|at| {
        let length = usize::from(u16::from_be_bytes([class[at - 2], class[at - 1]]));
        let text = std::str::from_utf8(class.get(at..at + length)?).ok()?;
        let is_name =
            text.len() > PREFIX.len() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        is_name.then(|| text.to_owned())
    })
}

fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string(repository().join("docs/spark-settings.md")).expect("the document");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    rows.map(|row| row.trim_matches('|').split('|').map(cell).collect()).collect()
}

#[test]
fn every_setting_is_listed_once() {
    let listed: Vec<_> = rows().iter().map(|row| row[0].clone()).collect();
    let known = settings();
    assert!(known.len() > 40, "{known:?}");
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), known);
    assert_eq!(listed.len(), known.len(), "none twice");
}

#[test]
fn every_row_names_a_test_that_uses_its_setting() {
    let mut sources = String::new();
    collect(&repository().join("tests/tests"), &mut sources);
    for row in rows() {
        let [setting, here, what, test] = &row[..] else { panic!("not four cells: {row:?}") };
        assert!(
            ["works", "Spark's own", "refused", "no effect"].contains(&here.as_str()),
            "{setting}: {here}"
        );
        assert!(!what.is_empty() && !test.is_empty(), "{setting}: {row:?}");
        let after = sources.split(&format!("fn {test}(")).nth(1);
        let body = after.and_then(|after| after.split("\n}\n").next());
        assert!(body.is_some_and(|body| body.contains(setting)), "{setting} is not in a test {test}");
    }
}

fn collect(directory: &Path, sources: &mut String) {
    for entry in fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(path).expect("text"));
        }
    }
}

/// The containers and secrets that Spark makes of settings, and what becomes of a task that has them.
#[tokio::test]
async fn what_is_refused_is_named_on_the_console() -> Result<()> {
    const DOCKER: &str =
        "TASK_ERROR Task's `ContainerInfo` is invalid: 'DOCKER' containers are not supported";
    const IMAGE: &str = "TASK_ERROR Task's `container.mesos.image` is not supported";
    const NETWORK: &str = "TASK_ERROR Task's `container.network_infos` is not supported";
    const FILE: &str = "TASK_ERROR Task's `container.volumes` is not supported";
    const NAME: &str = "this cluster has no store to look the secret '/a' up in: give its value instead";
    let image = "spark.mesos.executor.docker.image=i";
    let with_image = |setting: &str| format!("{image};{setting}");
    let cases = [
        (image.to_owned(), DOCKER),
        (with_image("spark.mesos.executor.docker.forcePullImage=true"), DOCKER),
        (with_image("spark.mesos.executor.docker.parameters=memory=1g"), DOCKER),
        (with_image("spark.mesos.executor.docker.portmaps=80:80"), DOCKER),
        (with_image("spark.mesos.executor.docker.volumes=/a:/b:ro"), DOCKER),
        (with_image("spark.mesos.containerizer=mesos"), IMAGE),
        ("spark.mesos.network.name=n".into(), NETWORK),
        ("spark.mesos.network.name=n;spark.mesos.network.labels=k:v".into(), NETWORK),
        ("spark.mesos.executor.secret.values=s;spark.mesos.executor.secret.filenames=/f".into(), FILE),
        ("spark.mesos.driver.secret.values=s;spark.mesos.driver.secret.filenames=/f".into(), FILE),
        ("spark.mesos.executor.secret.names=/a;spark.mesos.executor.secret.envkeys=FROM_SPARK".into(), NAME),
        ("spark.mesos.driver.secret.names=/a;spark.mesos.driver.secret.envkeys=FROM_SPARK".into(), NAME),
        // The command looks whether it has the variable.
        (
            "spark.mesos.executor.secret.values=secret;spark.mesos.executor.secret.envkeys=FROM_SPARK".into(),
            "TASK_FINISHED",
        ),
        (
            "spark.mesos.driver.secret.values=secret;spark.mesos.driver.secret.envkeys=FROM_SPARK".into(),
            "TASK_FINISHED",
        ),
    ];
    let (spark, cluster) = (Spark::find(), Cluster::start(ClusterOptions { agents: 1, cpus: 4 })?);
    let dir = tempfile::tempdir()?;
    let jars = format!("{}/*", spark.jars().display());
    let source = repository().join("tests/apps/Containers.java");
    let compiled = Command::new("javac").args(["-cp", &jars, "-d"]).arg(dir.path()).arg(source).status()?;
    ensure!(compiled.success(), "javac");
    let heard = dir.path().join("heard");
    let mut program = Command::new("java")
        .args(["-cp", &format!("{}:{jars}", dir.path().display()), "Containers", cluster.master()])
        .arg(&heard)
        .args(cases.iter().map(|(settings, _)| settings))
        .env("MESOS_NATIVE_JAVA_LIBRARY", binaries().join("libmesos.so"))
        .spawn()?;
    let all = eventually("news of all tasks", LONG, || async {
        let heard = fs::read_to_string(&heard).unwrap_or_default();
        for (number, (settings, expected)) in cases.iter().enumerate() {
            let prefix = format!("{number} TASK_");
            let of_task: Vec<_> = heard.lines().filter(|line| line.starts_with(&prefix)).collect();
            ensure!(of_task.iter().any(|line| line.contains(expected)), "{settings}: {of_task:?}");
        }
        Ok(())
    });
    let all = all.await;
    program.kill()?;
    program.wait()?;
    all?;
    cluster.stop()
}

/// A driver and its executor, with everything set that one driver can have.
#[tokio::test]
async fn drivers_and_executors_have_what_was_set() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Processes::start_with(4, &["--attributes", "rack:a1"]).await?);
    let dir = tempfile::tempdir()?;
    let (home, file) = (dir.path().join("spark-of-the-agents"), dir.path().join("fetched.txt"));
    std::os::unix::fs::symlink(spark.home(), &home)?;
    fs::write(&file, "content")?;
    let logging = repository().join("tests/apps/log4j2-backend.properties");
    let (home, uri) = (home.to_string_lossy(), format!("file://{}", file.display()));
    let logging = format!("-Dlog4j2.configurationFile={}", logging.display());
    let settings = [
        ("spark.cores.max", "1"),
        // It gets one, and goes on wanting another.
        ("spark.dynamicAllocation.initialExecutors", "2"),
        ("spark.dynamicAllocation.minExecutors", "2"),
        ("spark.driver.extraJavaOptions", &logging),
        ("spark.mesos.coarse", "true"),
        ("spark.mesos.coarse.shutdownTimeout", "20s"),
        ("spark.mesos.constraints", "rack:a1"),
        ("spark.mesos.driver.failoverTimeout", "471.5"),
        ("spark.mesos.driver.frameworkId", "chosen-by-the-user"),
        ("spark.mesos.driver.webui.url", "http://driver.example/ui"),
        ("spark.mesos.executor.home", &home),
        ("spark.mesos.executor.memoryOverhead", "77"),
        ("spark.mesos.extra.cores", "3"),
        ("spark.mesos.fetcherCache.enable", "true"),
        ("spark.mesos.gpus.max", "1"),
        ("spark.mesos.principal", "ann"),
        ("spark.mesos.secret", "nobody-asks-for-it"),
        ("spark.mesos.rejectOfferDurationForReachedMaxCores", "2s"),
        ("spark.mesos.role", "analytics"),
        ("spark.mesos.task.labels", "tier:gold"),
        ("spark.mesos.uris", &uri),
    ];
    let app = repository().join("tests/apps/persisted.py").to_string_lossy().into_owned();
    let services = (&*cluster.master(), cluster.shuffle_port());
    let mut application = Application::submit_to(&spark, services, &[&app], &settings, &[])?;
    let started = application.event("started", LONG).await?;
    ensure!(started["framework"] == "chosen-by-the-user", "{started}");
    let first = application.event("first", LONG).await?;
    ensure!(first["correct"] == true, "{first}");

    let master = |path: &str| format!("http://{}{path}", cluster.master());
    let frameworks = get_json(&master("/frameworks")).await?;
    let framework = &frameworks["frameworks"][0];
    ensure!(framework["id"] == "chosen-by-the-user" && framework["failover_timeout"] == 471.5, "{framework}");
    ensure!(
        framework["webui_url"] == "http://driver.example/ui" && framework["principal"] == "ann",
        "{framework}"
    );
    ensure!(framework["roles"][0] == "analytics", "{framework}");
    let (labels, capabilities) = (framework["labels"].to_string(), framework["capabilities"].to_string());
    ensure!(labels.contains("bellows.shuffle_service"), "{labels}");
    ensure!(capabilities.contains("GPU_RESOURCES"), "{capabilities}");
    let tasks = get_json(&master("/tasks")).await?;
    let task = &tasks["tasks"][0];
    ensure!(task["resources"]["mem"] == f64::from(512 + 77) && task["role"] == "analytics", "{task}");
    ensure!(task["labels"].to_string().contains("\"gold\""), "{task}");
    let java = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("CoarseGrainedExecutorBackend").then_some((*pid, line))
    };
    let processes = processes_of("chosen-by-the-user");
    let (pid, line) = processes.iter().find_map(java).context("the executor's JVM")?;
    ensure!(line.contains(&*home), "it was started from elsewhere: {line}");
    ensure!(line.contains("--cores 4 "), "1 and 3 extra: {line}");
    ensure!(fs::read(format!("/proc/{pid}/cwd/fetched.txt"))? == b"content", "in its sandbox");
    // The rest of the agent comes again when what Spark named has passed.
    eventually("offers beyond spark.cores.max", LONG, || async {
        let output = application.output();
        let said = "for 2 seconds  (reason: reached spark.cores.max)";
        let declined = output.lines().filter(|line| line.contains(said)).count();
        ensure!(declined >= 2, "{declined} declined: {output}");
        Ok(())
    })
    .await?;
    application.go()?;
    application.finish(LONG).await
}
