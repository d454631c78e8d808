//! Stops Spark's context when its driver ends: Spark's Mesos backend does not, and jobs that come later would wait for
//! ever. Nothing is assumed of schedulers that are not Spark's own.

use std::thread::sleep;
use std::time::{Duration, Instant};

use jni::objects::{JClass, JObject, JObjectArray};
use jni::refs::{Global, IntoAuto as _};
use jni::strings::JNIString;
use jni::{Env, jni_sig, jni_str};
use tracing::warn;

use super::messages::string_from_java;
use super::{NativeError, thread};
use crate::scheduler::Backend;

const COARSE_GRAINED: &str = "org.apache.spark.scheduler.cluster.mesos.MesosCoarseGrainedSchedulerBackend";
/// Its name before Spark 2, too.
const FINE_GRAINED: [&str; 2] = [
    "org.apache.spark.scheduler.cluster.mesos.MesosFineGrainedSchedulerBackend",
    "org.apache.spark.scheduler.cluster.mesos.MesosSchedulerBackend",
];
const CONTEXT: &str = "org.apache.spark.SparkContext";

/// How long jobs that fail may take to say why, before the context's end gives them another reason.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

pub(super) fn backend(env: &mut Env<'_>, scheduler: &JObject<'_>) -> Result<Backend, NativeError> {
    Ok(match backend_class(env, scheduler)? {
        Some((_, name)) if name == COARSE_GRAINED => Backend::CoarseGrained,
        Some(_) => Backend::FineGrained,
        None => Backend::Other,
    })
}

/// Stops the SparkContext of a scheduler that is Spark's, on a thread of its own: that takes seconds, and joins threads
/// of Spark's that may wait for the caller.
pub(super) fn stop_application(env: &mut Env<'_>, scheduler: &JObject<'_>) -> Result<(), NativeError> {
    let found = find_context(env, scheduler);
    let Some(context) = without_exception(env, found)? else { return Ok(()) };
    warn!("stopping Spark's context: without a master its jobs would wait for ever");
    let vm = env.get_java_vm()?;
    let context_loader = thread::context_loader(env)?;
    let spawned = thread::spawn("mesos-stop-spark", vm, context_loader, move |env| {
        let stopped = stop(env, &context);
        if let Err(error) = without_exception(env, stopped) {
            warn!(%error, "Spark's context could not be stopped");
        }
    });
    if let Err(error) = spawned {
        warn!(%error, "Spark's context is not stopped: no thread");
    }
    Ok(())
}

fn stop(env: &mut Env<'_>, context: &Global<JObject<'static>>) -> Result<(), NativeError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let active = has_active_jobs(env, context);
        if !without_exception(env, active).unwrap_or(false) || Instant::now() >= deadline {
            break;
        }
        sleep(POLL);
    }
    env.call_method(context, jni_str!("stop"), jni_sig!("()V"), &[])?;
    Ok(())
}

fn has_active_jobs(env: &mut Env<'_>, context: &Global<JObject<'static>>) -> Result<bool, NativeError> {
    env.with_local_frame(8, |env| {
        let signature = jni_sig!("()Lorg/apache/spark/SparkStatusTracker;");
        let tracker = env.call_method(context, jni_str!("statusTracker"), signature, &[])?.l()?;
        let jobs = env.call_method(&tracker, jni_str!("getActiveJobIds"), jni_sig!("()[I"), &[])?.l()?;
        let jobs = env.as_cast::<jni::objects::JIntArray<'_>>(&jobs)?;
        Ok(jobs.len(env)? > 0)
    })
}

/// The class among the scheduler's own and those that it extends that is one of Spark's backends, and its name.
fn backend_class<'local>(
    env: &mut Env<'local>,
    scheduler: &JObject<'_>,
) -> Result<Option<(JClass<'local>, String)>, NativeError> {
    let mut class = env.get_object_class(scheduler)?;
    loop {
        let name = name_of(env, &class)?;
        if name == COARSE_GRAINED || FINE_GRAINED.contains(&name.as_str()) {
            return Ok(Some((class, name)));
        }
        match env.get_superclass(&class)? {
            Some(parent) => class = parent,
            None => return Ok(None),
        }
    }
}

/// The context lies in a field whose name the compiler of Scala has made up: it is found by its type.
fn find_context(
    env: &mut Env<'_>,
    scheduler: &JObject<'_>,
) -> Result<Option<Global<JObject<'static>>>, NativeError> {
    let Some((class, _)) = backend_class(env, scheduler)? else { return Ok(None) };
    let signature = jni_sig!("()[Ljava/lang/reflect/Field;");
    let fields = env.call_method(&class, jni_str!("getDeclaredFields"), signature, &[])?.l()?.auto();
    // SAFETY: the method's signature says that it returns an array of objects.
    let fields = unsafe { JObjectArray::<JObject<'_>>::from_raw(env, fields.as_raw()) };
    for index in 0..fields.len(env)? {
        let field = fields.get_element(env, index)?.auto();
        let kind =
            env.call_method(&field, jni_str!("getType"), jni_sig!("()Ljava/lang/Class;"), &[])?.l()?.auto();
        if name_of(env, &kind)? != CONTEXT {
            continue;
        }
        // Not through reflection, which refuses a thread that no Java code has called from.
        let name =
            env.call_method(&field, jni_str!("getName"), jni_sig!("()Ljava/lang/String;"), &[])?.l()?.auto();
        let name = JNIString::from(string_from_java(env, &name)?);
        let signature = jni_sig!("Lorg/apache/spark/SparkContext;");
        let context = env.get_field(scheduler, name, signature)?.l()?.auto();
        if !context.is_null() {
            return Ok(Some(env.new_global_ref(&*context)?));
        }
    }
    Ok(None)
}

fn name_of(env: &mut Env<'_>, class: &JObject<'_>) -> Result<String, NativeError> {
    let name =
        env.call_method(class, jni_str!("getName"), jni_sig!("()Ljava/lang/String;"), &[])?.l()?.auto();
    string_from_java(env, &name)
}

/// Prints and clears what Java has thrown, so that no call after this one is spoiled by it.
fn without_exception<T>(env: &mut Env<'_>, result: Result<T, NativeError>) -> Result<T, NativeError> {
    if env.exception_check() {
        env.exception_describe();
        env.exception_clear();
    }
    result
}
