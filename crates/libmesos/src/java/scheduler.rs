//! `org.apache.mesos.MesosSchedulerDriver`: its native methods, and the calls of `org.apache.mesos.Scheduler`.

use bellows_client::Credential;
use bellows_wire::v1;
use bytes::Bytes;
use jni::objects::{JByteArray, JObject};
use jni::refs::IntoAuto as _;
use jni::sys::jboolean;
use jni::{Env, EnvUnowned, JValue, jni_mangle, jni_sig, jni_str};
use tracing::warn;

use super::NativeError;
use super::callbacks::{Argument, Callbacks, Method, list, message};
use super::driver::{JavaDriver, JavaRole, native_methods};
use super::handles::Handles;
use super::messages::{all_from_java, from_java, string_from_java, strings_from_java};
use super::spark;
use crate::driver::Driver;
use crate::scheduler::{Backend, Callback, Scheduler, Settings};

native_methods! {
    class "org.apache.mesos.MesosSchedulerDriver", role Scheduler = |env, object| {
        Ok(Scheduler::new(read_settings(env, object)?))
    };

    fn stop(failover: jboolean) = |_, driver| Ok(driver.stop(failover));

    fn abort() = |_, driver| Ok(driver.abort());

    fn join() = |_, driver| Ok(driver.join());

    ["launchTasks", "(Lorg/apache/mesos/Protos$OfferID;Ljava/util/Collection;Lorg/apache/mesos/Protos$Filters;)Lorg/apache/mesos/Protos$Status;"]
    fn launch_tasks_of_one_offer(offer_id: JObject<'_>, tasks: JObject<'_>, filters: JObject<'_>) = |env, driver| {
        let offer_ids = vec![from_java(env, &offer_id)?];
        let tasks = all_from_java(env, &tasks)?;
        Ok(driver.launch_tasks(offer_ids, tasks, from_java(env, &filters)?))
    };

    ["launchTasks", "(Ljava/util/Collection;Ljava/util/Collection;Lorg/apache/mesos/Protos$Filters;)Lorg/apache/mesos/Protos$Status;"]
    fn launch_tasks(offer_ids: JObject<'_>, tasks: JObject<'_>, filters: JObject<'_>) = |env, driver| {
        let offer_ids = all_from_java(env, &offer_ids)?;
        let tasks = all_from_java(env, &tasks)?;
        Ok(driver.launch_tasks(offer_ids, tasks, from_java(env, &filters)?))
    };

    fn accept_offers(offer_ids: JObject<'_>, operations: JObject<'_>, filters: JObject<'_>) = |env, driver| {
        let offer_ids = all_from_java(env, &offer_ids)?;
        let operations = all_from_java(env, &operations)?;
        Ok(driver.accept_offers(offer_ids, operations, from_java(env, &filters)?))
    };

    fn decline_offer(offer_id: JObject<'_>, filters: JObject<'_>) = |env, driver| {
        Ok(driver.decline_offer(from_java(env, &offer_id)?, from_java(env, &filters)?))
    };

    ["reviveOffers", "()Lorg/apache/mesos/Protos$Status;"]
    fn revive_offers() = |_, driver| Ok(driver.revive_offers(Vec::new()));

    /// Bindings from Mesos 1.6 on. Without roles it does nothing, as in Mesos.
    ["reviveOffers", "(Ljava/util/Collection;)Lorg/apache/mesos/Protos$Status;"]
    fn revive_offers_of_roles(roles: JObject<'_>) = |env, driver| {
        let roles = strings_from_java(env, &roles)?;
        Ok(if roles.is_empty() { driver.status() } else { driver.revive_offers(roles) })
    };

    ["suppressOffers", "()Lorg/apache/mesos/Protos$Status;"]
    fn suppress_offers() = |_, driver| Ok(driver.suppress_offers(Vec::new()));

    /// Bindings from Mesos 1.6 on. Without roles it does nothing, as in Mesos.
    ["suppressOffers", "(Ljava/util/Collection;)Lorg/apache/mesos/Protos$Status;"]
    fn suppress_offers_of_roles(roles: JObject<'_>) = |env, driver| {
        let roles = strings_from_java(env, &roles)?;
        Ok(if roles.is_empty() { driver.status() } else { driver.suppress_offers(roles) })
    };

    fn kill_task(task_id: JObject<'_>) = |env, driver| Ok(driver.kill_task(from_java(env, &task_id)?));

    fn acknowledge_status_update(status: JObject<'_>) = |env, driver| {
        if driver.implicit_acknowledgements() {
            // Mesos ends the process here.
            return Err(NativeError::Misuse(
                "acknowledgeStatusUpdate was called although the driver acknowledges implicitly",
            ));
        }
        Ok(driver.acknowledge(from_java(env, &status)?))
    };

    fn send_framework_message(executor_id: JObject<'_>, agent_id: JObject<'_>, data: JByteArray<'_>) = |env, driver| {
        let executor_id = from_java(env, &executor_id)?;
        let agent_id = from_java(env, &agent_id)?;
        let data = Bytes::from(env.convert_byte_array(&data)?);
        Ok(driver.send_framework_message(executor_id, agent_id, data))
    };

    fn reconcile_tasks(statuses: JObject<'_>) = |env, driver| {
        Ok(driver.reconcile_tasks(all_from_java(env, &statuses)?))
    };

    fn request_resources(requests: JObject<'_>) = |env, driver| {
        Ok(driver.request_resources(all_from_java(env, &requests)?))
    };

    /// Bindings from Mesos 1.9 on.
    fn update_framework(framework: JObject<'_>, suppressed_roles: JObject<'_>) = |env, driver| {
        let mut framework = from_java(env, &framework)?;
        fill_in(env, &mut framework)?;
        let suppressed_roles = strings_from_java(env, &suppressed_roles)?;
        Ok(driver.update_framework(framework, suppressed_roles))
    };
}

impl JavaRole for Scheduler {
    const OBJECT: (&'static str, &'static str) = ("scheduler", "Scheduler");

    fn method(callback: Callback) -> Method {
        match callback {
            Callback::Registered(framework_id, master) => {
                ("registered", vec![message(&framework_id), message(&master)])
            }
            Callback::Reregistered(master) => ("reregistered", vec![message(&master)]),
            Callback::Disconnected => ("disconnected", vec![]),
            Callback::ResourceOffers(offers) => ("resourceOffers", vec![list(&offers)]),
            Callback::OfferRescinded(offer_id) => ("offerRescinded", vec![message(&offer_id)]),
            Callback::StatusUpdate(status) => ("statusUpdate", vec![message(&*status)]),
            Callback::FrameworkMessage(executor_id, agent_id, data) => {
                ("frameworkMessage", vec![message(&executor_id), message(&agent_id), Argument::Bytes(data)])
            }
            Callback::AgentLost(agent_id) => ("slaveLost", vec![message(&agent_id)]),
            Callback::ExecutorLost(executor_id, agent_id, status) => {
                ("executorLost", vec![message(&executor_id), message(&agent_id), Argument::Int(status)])
            }
            Callback::Error(why) => ("error", vec![Argument::Text(why)]),
        }
    }

    fn aborted(driver: &Driver<Self>, callbacks: &Callbacks, env: &mut Env<'_>) {
        // Before that, it is Spark's own start that fails.
        if driver.role.has_registered()
            && let Err(error) = callbacks.with_object(env, Self::OBJECT, spark::stop_application)
        {
            warn!(%error, "a Spark application could not be stopped; it may wait for ever");
        }
    }
}

/// What the master goes by.
const SHUFFLE_SERVICE_LABEL: &str = "bellows.shuffle_service";

fn read_settings(env: &mut Env<'_>, object: &JObject<'_>) -> Result<Settings, NativeError> {
    let framework = env
        .get_field(object, jni_str!("framework"), jni_sig!("Lorg/apache/mesos/Protos$FrameworkInfo;"))?
        .l()?
        .auto();
    let mut framework: v1::FrameworkInfo = from_java(env, &framework)?;
    fill_in(env, &mut framework)?;
    if uses_shuffle_service(env, object)? {
        let label = v1::Label { key: SHUFFLE_SERVICE_LABEL.into(), value: Some("true".into()) };
        framework.labels.get_or_insert_default().labels.push(label);
    }
    let master = env.get_field(object, jni_str!("master"), jni_sig!("Ljava/lang/String;"))?.l()?.auto();
    let credential = env
        .get_field(object, jni_str!("credential"), jni_sig!("Lorg/apache/mesos/Protos$Credential;"))?
        .l()?
        .auto();
    let credential = if credential.is_null() {
        None
    } else {
        let credential: v1::Credential = from_java(env, &credential)?;
        let secret = credential.secret.unwrap_or_default();
        Some(Credential { principal: credential.principal, secret })
    };
    let scheduler =
        env.get_field(object, jni_str!("scheduler"), jni_sig!("Lorg/apache/mesos/Scheduler;"))?.l()?.auto();
    let backend = if scheduler.is_null() { Backend::Other } else { spark::backend(env, &scheduler)? };
    let implicit_acknowledgements =
        env.get_field(object, jni_str!("implicitAcknowledgements"), jni_sig!("Z"))?.z()?;
    Ok(Settings {
        master: string_from_java(env, &master)?,
        framework,
        suppressed_roles: suppressed_roles(env, object)?,
        credential,
        implicit_acknowledgements,
        backend,
    })
}

/// Whether executors of Spark's backend will need the shuffle service of their machine; it keeps
/// `spark.shuffle.service.enabled` under this name. Other programs have none.
fn uses_shuffle_service(env: &mut Env<'_>, object: &JObject<'_>) -> Result<bool, NativeError> {
    let scheduler =
        env.get_field(object, jni_str!("scheduler"), jni_sig!("Lorg/apache/mesos/Scheduler;"))?.l()?.auto();
    match env.call_method(&scheduler, jni_str!("shuffleServiceEnabled"), jni_sig!("()Z"), &[]) {
        Ok(enabled) => Ok(enabled.z()?),
        Err(jni::errors::Error::MethodNotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Bindings before Mesos 1.9 have no such field.
fn suppressed_roles(env: &mut Env<'_>, object: &JObject<'_>) -> Result<Vec<String>, NativeError> {
    match env.get_field(object, jni_str!("suppressedRoles"), jni_sig!("Ljava/util/Collection;")) {
        Ok(roles) => {
            let roles = roles.l()?.auto();
            if roles.is_null() { Ok(Vec::new()) } else { strings_from_java(env, &roles) }
        }
        Err(jni::errors::Error::FieldNotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// As Mesos' driver: who runs the program, and where.
fn fill_in(env: &mut Env<'_>, framework: &mut v1::FrameworkInfo) -> Result<(), NativeError> {
    if framework.user.is_empty() {
        let key = env.new_string("user.name")?.auto();
        let signature = jni_sig!("(Ljava/lang/String;)Ljava/lang/String;");
        let user = env
            .call_static_method(
                jni_str!("java/lang/System"),
                jni_str!("getProperty"),
                signature,
                &[JValue::Object(&key)],
            )?
            .l()?
            .auto();
        framework.user = string_from_java(env, &user)?;
    }
    if framework.hostname().is_empty() {
        framework.hostname =
            std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    }
    Ok(())
}
