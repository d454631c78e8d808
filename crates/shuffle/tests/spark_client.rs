//! Spark's `ExternalBlockStoreClient` gets its blocks from this service as from its own.

mod support;

use bellows_shuffle::AuthPolicy;
use bellows_testkit::Spark;
use support::spark::SparkClient;
use support::{Bench, TestExecutor, exists};

const LENGTHS: [usize; 6] = [10, 1000, 70_000, 3, 2_500_000, 17];
const BLOCKS: &str = "shuffle_0_1_0,shuffle_0_1_2,shuffle_0_1_4,shuffle_0_2_4,shuffle_0_2_5";

struct Scene {
    bench: Bench,
    executor: TestExecutor,
    outputs: Vec<Vec<Vec<u8>>>,
    out: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let bench = Bench::new();
        let executor = bench.executor("app", "7");
        let outputs = vec![executor.map_output(0, 1, &LENGTHS), executor.map_output(0, 2, &LENGTHS)];
        Scene { bench, executor, outputs, out: tempfile::tempdir().expect("directory") }
    }

    fn dirs(&self) -> String {
        let dirs: Vec<_> = self.executor.dirs.iter().map(|d| d.to_str().expect("UTF-8")).collect();
        dirs.join(",")
    }

    fn out(&self) -> &str {
        self.out.path().to_str().expect("UTF-8")
    }

    fn assert_fetched(&self, lines: &[String], blocks: &str) {
        for block in blocks.split(',') {
            assert!(lines.contains(&format!("fetched {block}")), "{block}: {lines:?}");
            let parts: Vec<usize> = block.split('_').skip(2).map(|p| p.parse().expect("a number")).collect();
            let end = parts.get(2).copied().unwrap_or(parts[1] + 1);
            let expected = self.outputs[parts[0] - 1][parts[1]..end].concat();
            let path = self.out.path().join(block);
            assert!(std::fs::read(&path).expect("fetched") == expected, "{block}");
            std::fs::remove_file(path).expect("there");
        }
    }
}

#[tokio::test]
async fn it_registers_fetches_and_removes() {
    let jars = Spark::find().jars();
    let scene = Scene::new();
    let service = scene.bench.start().await;
    let client = SparkClient { jars: &jars, service: &service, app: "app", settings: "", secret: "" };
    let batches = "shuffle_0_1_0_6,shuffle_0_2_1_3";
    let dirs = scene.dirs();
    // This one writes when it is registered, as Spark's executors do.
    let second = scene.bench.executor("app", "8");
    let seconds = second.dirs.iter().map(|dir| dir.to_str().expect("UTF-8")).collect::<Vec<_>>().join(",");
    let register = ["register", "8", "64", &seconds, "register", "7", "64", &dirs];
    let fetch = ["fetch", "7", scene.out(), BLOCKS, "fetch", "7", scene.out(), batches];
    let lines = client.run(&[&register[..], &fetch].concat()).await;
    second.write("rdd_5_6", b"cached");
    scene.assert_fetched(&lines, BLOCKS);
    scene.assert_fetched(&lines, batches);

    let missing = "shuffle_0_1_1,shuffle_0_9_0";
    let steps = [
        "driver",
        "60000",
        "dirs",
        "7",
        "stream",
        "7",
        scene.out(),
        BLOCKS,
        "fetch",
        "8",
        scene.out(),
        "rdd_5_6",
        "remove",
        "8",
        "rdd_5_6,rdd_5_7",
        "fetch",
        "7",
        scene.out(),
        missing,
    ];
    let lines = client.run(&steps).await;
    scene.assert_fetched(&lines, BLOCKS);
    assert_eq!(std::fs::read(scene.out.path().join("rdd_5_6")).expect("fetched"), b"cached");
    for line in ["driver", &format!("dirs {dirs}"), "removed 1", "fetched shuffle_0_1_1"] {
        assert!(lines.contains(&line.to_owned()), "{line}: {lines:?}");
    }
    assert!(!exists(&second.path("rdd_5_6")));
    // Final for Spark: no I/O exception, so it reports the map output as lost instead of trying again.
    let failed = lines.iter().find(|l| l.starts_with("failed shuffle_0_9_0")).expect("fails");
    assert!(failed.contains("ChunkFetchFailureException"), "{failed}");
    service.stop().await;
}

#[tokio::test]
async fn the_old_protocol() {
    let jars = Spark::find().jars();
    let scene = Scene::new();
    let service = scene.bench.start().await;
    let settings = "spark.shuffle.useOldFetchProtocol=true";
    let client = SparkClient { jars: &jars, service: &service, app: "app", settings, secret: "" };
    let lines = client.run(&["register", "7", "64", &scene.dirs(), "fetch", "7", scene.out(), BLOCKS]).await;
    scene.assert_fetched(&lines, BLOCKS);
    service.stop().await;
}

/// Registers, fetches to memory and to disk with these settings; the service follows `policy`.
async fn assert_works_with(settings: &str, policy: AuthPolicy) {
    let jars = Spark::find().jars();
    let (scene, service) = protected_scene(policy).await;
    let settings = format!("spark.authenticate=true;{settings}");
    let client =
        SparkClient { jars: &jars, service: &service, app: "app", settings: &settings, secret: "s3cret" };
    let (dirs, more) = (scene.dirs(), "shuffle_0_1_0_6,shuffle_0_2_0_6");
    let out = scene.out();
    let steps = ["register", "7", "64", &dirs, "fetch", "7", out, BLOCKS, "stream", "7", out, more];
    let lines = client.run(&steps).await;
    scene.assert_fetched(&lines, BLOCKS);
    scene.assert_fetched(&lines, more);
    service.stop().await;
}

async fn protected_scene(policy: AuthPolicy) -> (Scene, bellows_shuffle::Running) {
    let mut scene = Scene::new();
    scene.bench.authenticate("app s3cret\nother 0ther\n");
    scene.bench.config.auth.as_mut().expect("set").policy = policy;
    let service = scene.bench.start().await;
    (scene, service)
}

#[tokio::test]
async fn who_does_not_know_the_secret_or_is_another_application_gets_nothing() {
    let jars = Spark::find().jars();
    let (scene, service) = protected_scene(AuthPolicy::default()).await;
    support::Client::connect(&service).await.assert_closed_on(&scene.executor.register()).await;
    let fetch = ["fetch", "7", scene.out(), "shuffle_0_1_0"];
    let once = "spark.shuffle.io.maxRetries=0;spark.network.crypto.saslFallback=false;spark.authenticate";
    for settings in [format!("{once}=true"), format!("{once}=true;spark.network.crypto.enabled=true")] {
        let of =
            |app, secret| SparkClient { jars: &jars, service: &service, app, settings: &settings, secret };
        let dirs = scene.dirs();
        let lines = of("app", "s3cret").run(&["register", "7", "64", &dirs]).await;
        assert_eq!(lines, ["registered 7"]);
        let lines = of("app", "0ther").run(&fetch).await;
        assert!(lines[0].contains("Authentication failed."), "a wrong secret is refused: {lines:?}");
        let lines = of("other", "0ther").run(&fetch).await;
        assert!(
            lines[0].contains("Executor is not registered"),
            "another application sees nothing: {lines:?}"
        );
    }
    service.stop().await;
}

const ENGINE_ONLY: AuthPolicy = AuthPolicy { sasl_fallback: false, sasl_always_encrypt: false };

#[tokio::test]
async fn sasl() {
    assert_works_with("", AuthPolicy::default()).await;
}

#[tokio::test]
async fn sasl_encrypted() {
    let policy = AuthPolicy { sasl_always_encrypt: true, ..AuthPolicy::default() };
    assert_works_with("spark.authenticate.enableSaslEncryption=true", policy).await;
}

#[tokio::test]
async fn aes_ctr_version_1() {
    assert_works_with("spark.network.crypto.enabled=true", ENGINE_ONLY).await;
}

#[tokio::test]
async fn aes_gcm_version_2() {
    let settings = "spark.network.crypto.enabled=true;spark.network.crypto.authEngineVersion=2;\
                    spark.network.crypto.cipher=AES/GCM/NoPadding";
    assert_works_with(settings, ENGINE_ONLY).await;
}

#[tokio::test]
async fn aes_gcm_version_1() {
    let settings = "spark.network.crypto.enabled=true;spark.network.crypto.cipher=AES/GCM/NoPadding";
    assert_works_with(settings, ENGINE_ONLY).await;
}

#[tokio::test]
async fn aes_ctr_version_2() {
    let settings = "spark.network.crypto.enabled=true;spark.network.crypto.authEngineVersion=2";
    assert_works_with(settings, ENGINE_ONLY).await;
}
