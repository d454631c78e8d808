//! `org.apache.mesos.MesosSchedulerDriver`: its native methods, and the calls of `org.apache.mesos.Scheduler`.

use std::sync::Arc;

use bellows_client::Credential;
use bellows_wire::v1;
use bytes::Bytes;
use jni::objects::{JByteArray, JObject};
use jni::refs::IntoAuto as _;
use jni::sys::jboolean;
use jni::{Env, EnvUnowned, JValue, jni_sig, jni_str};

use super::callbacks::{Callbacks, Receiver};
use super::handles::Handles;
use super::messages::{Kind, all_from_java, from_java, list_to_java, string_from_java, strings_from_java};
use super::thread;
use super::{NativeError, native, status_to_java};
use crate::lifecycle::Status;
use crate::scheduler::{Callback, CallbackFailed, SchedulerDriver, Settings};

static DRIVERS: Handles<JavaDriver> = Handles::new();

/// The native side of one `MesosSchedulerDriver`.
struct JavaDriver {
    driver: Arc<SchedulerDriver>,
    callbacks: Arc<Callbacks>,
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_initialize")]
extern "system" fn initialize<'local>(env: EnvUnowned<'local>, object: JObject<'local>) {
    native(env, |env| {
        let settings = read_settings(env, &object)?;
        let callbacks = Arc::new(Callbacks::new(env, &object)?);
        let driver = JavaDriver { driver: Arc::new(SchedulerDriver::new(settings)), callbacks };
        DRIVERS.attach(env, &object, Arc::new(driver))
    });
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_finalize")]
extern "system" fn finalize<'local>(env: EnvUnowned<'local>, object: JObject<'local>) {
    native(env, |env| {
        // Not stopped, as that would end the framework: another process may take it over.
        if let Some(driver) = DRIVERS.release(env, &object)? {
            driver.driver.discard();
        }
        Ok(())
    });
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_start")]
extern "system" fn start<'local>(env: EnvUnowned<'local>, object: JObject<'local>) -> JObject<'local> {
    native(env, |env| {
        let java = DRIVERS.get(env, &object)?;
        let vm = env.get_java_vm()?;
        let context_loader = thread::context_loader(env)?;
        let callbacks = Arc::clone(&java.callbacks);
        let started = java.driver.start(|work| {
            thread::spawn("mesos-callbacks", vm, context_loader, move |env| {
                work.run(|callback| invoke(&callbacks, env, callback));
            })
        });
        let status = match started {
            Ok(status) => status,
            Err(message) => {
                if invoke(&java.callbacks, env, Callback::Error(message)).is_err() {
                    tracing::warn!("the error callback threw");
                }
                java.driver.join()
            }
        };
        status_to_java(env, &java.callbacks.messages, status)
    })
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_stop")]
extern "system" fn stop<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    failover: jboolean,
) -> JObject<'local> {
    call(env, &object, |_, driver| Ok(driver.stop(failover)))
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_abort")]
extern "system" fn abort<'local>(env: EnvUnowned<'local>, object: JObject<'local>) -> JObject<'local> {
    call(env, &object, |_, driver| Ok(driver.abort()))
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_join")]
extern "system" fn join<'local>(env: EnvUnowned<'local>, object: JObject<'local>) -> JObject<'local> {
    call(env, &object, |_, driver| Ok(driver.join()))
}

// Overloaded methods carry their parameters' types in their names (JNI specification, "Resolving Native Method
// Names"); the JVM finds such a name for a method that is not overloaded, too.
#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_launchTasks__Lorg_apache_mesos_Protos_00024OfferID_2Ljava_util_Collection_2Lorg_apache_mesos_Protos_00024Filters_2")]
extern "system" fn launch_tasks_of_one_offer<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    offer_id: JObject<'local>,
    tasks: JObject<'local>,
    filters: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| {
        let offer_ids = vec![from_java(env, "OfferID", &offer_id)?];
        let tasks = all_from_java(env, "TaskInfo", &tasks)?;
        Ok(driver.launch_tasks(offer_ids, tasks, from_java(env, "Filters", &filters)?))
    })
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_launchTasks__Ljava_util_Collection_2Ljava_util_Collection_2Lorg_apache_mesos_Protos_00024Filters_2")]
extern "system" fn launch_tasks<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    offer_ids: JObject<'local>,
    tasks: JObject<'local>,
    filters: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| {
        let offer_ids = all_from_java(env, "OfferID", &offer_ids)?;
        let tasks = all_from_java(env, "TaskInfo", &tasks)?;
        Ok(driver.launch_tasks(offer_ids, tasks, from_java(env, "Filters", &filters)?))
    })
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_acceptOffers")]
extern "system" fn accept_offers<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    offer_ids: JObject<'local>,
    operations: JObject<'local>,
    filters: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| {
        let offer_ids = all_from_java(env, "OfferID", &offer_ids)?;
        let operations = all_from_java(env, "Offer.Operation", &operations)?;
        Ok(driver.accept_offers(offer_ids, operations, from_java(env, "Filters", &filters)?))
    })
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_declineOffer")]
extern "system" fn decline_offer<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    offer_id: JObject<'local>,
    filters: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| {
        Ok(driver.decline_offer(from_java(env, "OfferID", &offer_id)?, from_java(env, "Filters", &filters)?))
    })
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_reviveOffers__")]
extern "system" fn revive_offers<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |_, driver| Ok(driver.revive_offers(Vec::new())))
}

/// Bindings from Mesos 1.6 on. Without roles it does nothing, as in Mesos.
#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_reviveOffers__Ljava_util_Collection_2")]
extern "system" fn revive_offers_of_roles<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    roles: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| {
        let roles = strings_from_java(env, &roles)?;
        Ok(if roles.is_empty() { driver.status() } else { driver.revive_offers(roles) })
    })
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_suppressOffers__")]
extern "system" fn suppress_offers<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |_, driver| Ok(driver.suppress_offers(Vec::new())))
}

/// Bindings from Mesos 1.6 on. Without roles it does nothing, as in Mesos.
#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_suppressOffers__Ljava_util_Collection_2")]
extern "system" fn suppress_offers_of_roles<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    roles: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| {
        let roles = strings_from_java(env, &roles)?;
        Ok(if roles.is_empty() { driver.status() } else { driver.suppress_offers(roles) })
    })
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_killTask")]
extern "system" fn kill_task<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    task_id: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| Ok(driver.kill_task(from_java(env, "TaskID", &task_id)?)))
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_acknowledgeStatusUpdate")]
extern "system" fn acknowledge_status_update<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    status: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| {
        if driver.implicit_acknowledgements() {
            // Mesos ends the process here.
            return Err(NativeError::Misuse(
                "acknowledgeStatusUpdate was called although the driver acknowledges implicitly",
            ));
        }
        Ok(driver.acknowledge(from_java(env, "TaskStatus", &status)?))
    })
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_sendFrameworkMessage")]
extern "system" fn send_framework_message<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    executor_id: JObject<'local>,
    agent_id: JObject<'local>,
    data: JByteArray<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| {
        let executor_id = from_java(env, "ExecutorID", &executor_id)?;
        let agent_id = from_java(env, "SlaveID", &agent_id)?;
        let data = Bytes::from(env.convert_byte_array(&data)?);
        Ok(driver.send_framework_message(executor_id, agent_id, data))
    })
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_reconcileTasks")]
extern "system" fn reconcile_tasks<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    statuses: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| Ok(driver.reconcile_tasks(all_from_java(env, "TaskStatus", &statuses)?)))
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_requestResources")]
extern "system" fn request_resources<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    requests: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| Ok(driver.request_resources(all_from_java(env, "Request", &requests)?)))
}

/// Bindings from Mesos 1.9 on.
#[unsafe(export_name = "Java_org_apache_mesos_MesosSchedulerDriver_updateFramework")]
extern "system" fn update_framework<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    framework: JObject<'local>,
    suppressed_roles: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| {
        let mut framework = from_java(env, "FrameworkInfo", &framework)?;
        fill_in(env, &mut framework)?;
        let suppressed_roles = strings_from_java(env, &suppressed_roles)?;
        Ok(driver.update_framework(framework, suppressed_roles))
    })
}

fn call<'local>(
    env: EnvUnowned<'local>,
    object: &JObject<'local>,
    method: impl FnOnce(&mut Env<'local>, &SchedulerDriver) -> Result<Status, NativeError>,
) -> JObject<'local> {
    native(env, |env| {
        let java = DRIVERS.get(env, object)?;
        let status = method(env, &java.driver)?;
        status_to_java(env, &java.callbacks.messages, status)
    })
}

fn read_settings(env: &mut Env<'_>, object: &JObject<'_>) -> Result<Settings, NativeError> {
    let framework = env
        .get_field(object, jni_str!("framework"), jni_sig!("Lorg/apache/mesos/Protos$FrameworkInfo;"))?
        .l()?
        .auto();
    let mut framework: v1::FrameworkInfo = from_java(env, "FrameworkInfo", &framework)?;
    fill_in(env, &mut framework)?;
    let master = env.get_field(object, jni_str!("master"), jni_sig!("Ljava/lang/String;"))?.l()?.auto();
    let credential = env
        .get_field(object, jni_str!("credential"), jni_sig!("Lorg/apache/mesos/Protos$Credential;"))?
        .l()?
        .auto();
    let credential = if credential.is_null() {
        None
    } else {
        let credential: v1::Credential = from_java(env, "Credential", &credential)?;
        let secret = credential.secret.unwrap_or_default();
        Some(Credential { principal: credential.principal, secret })
    };
    let implicit_acknowledgements =
        env.get_field(object, jni_str!("implicitAcknowledgements"), jni_sig!("Z"))?.z()?;
    Ok(Settings {
        master: string_from_java(env, &master)?,
        framework,
        suppressed_roles: suppressed_roles(env, object)?,
        credential,
        implicit_acknowledgements,
    })
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

/// The program's scheduler hears one callback.
fn invoke(callbacks: &Callbacks, env: &mut Env<'_>, callback: Callback) -> Result<(), CallbackFailed> {
    let invoked = callbacks.invoke(env, |env, driver| {
        let scheduler =
            env.get_field(&driver, jni_str!("scheduler"), jni_sig!("Lorg/apache/mesos/Scheduler;"))?.l()?;
        call_scheduler(env, callbacks, &Receiver { object: scheduler, driver }, callback)
    });
    invoked.map_err(|_| CallbackFailed)
}

fn call_scheduler(
    env: &mut Env<'_>,
    callbacks: &Callbacks,
    scheduler: &Receiver<'_>,
    callback: Callback,
) -> Result<(), NativeError> {
    let messages = &callbacks.messages;
    match callback {
        Callback::Registered(framework_id, master) => {
            let framework_id = messages.to_java(env, Kind::FrameworkId, &framework_id)?;
            let master = messages.to_java(env, Kind::MasterInfo, &master)?;
            scheduler.call(
                env,
                jni_str!("registered"),
                jni_sig!("(Lorg/apache/mesos/SchedulerDriver;Lorg/apache/mesos/Protos$FrameworkID;Lorg/apache/mesos/Protos$MasterInfo;)V"),
                &[JValue::Object(&framework_id), JValue::Object(&master)],
            )
        }
        Callback::Reregistered(master) => {
            let master = messages.to_java(env, Kind::MasterInfo, &master)?;
            scheduler.call(
                env,
                jni_str!("reregistered"),
                jni_sig!("(Lorg/apache/mesos/SchedulerDriver;Lorg/apache/mesos/Protos$MasterInfo;)V"),
                &[JValue::Object(&master)],
            )
        }
        Callback::Disconnected => scheduler.call(
            env,
            jni_str!("disconnected"),
            jni_sig!("(Lorg/apache/mesos/SchedulerDriver;)V"),
            &[],
        ),
        Callback::ResourceOffers(offers) => {
            let offers = list_to_java(env, messages, Kind::Offer, &offers)?;
            scheduler.call(
                env,
                jni_str!("resourceOffers"),
                jni_sig!("(Lorg/apache/mesos/SchedulerDriver;Ljava/util/List;)V"),
                &[JValue::Object(&offers)],
            )
        }
        Callback::OfferRescinded(offer_id) => {
            let offer_id = messages.to_java(env, Kind::OfferId, &offer_id)?;
            scheduler.call(
                env,
                jni_str!("offerRescinded"),
                jni_sig!("(Lorg/apache/mesos/SchedulerDriver;Lorg/apache/mesos/Protos$OfferID;)V"),
                &[JValue::Object(&offer_id)],
            )
        }
        Callback::StatusUpdate(status) => {
            let status = messages.to_java(env, Kind::TaskStatus, &*status)?;
            scheduler.call(
                env,
                jni_str!("statusUpdate"),
                jni_sig!("(Lorg/apache/mesos/SchedulerDriver;Lorg/apache/mesos/Protos$TaskStatus;)V"),
                &[JValue::Object(&status)],
            )
        }
        Callback::FrameworkMessage(executor_id, agent_id, data) => {
            let executor_id = messages.to_java(env, Kind::ExecutorId, &executor_id)?;
            let agent_id = messages.to_java(env, Kind::AgentId, &agent_id)?;
            let data = env.byte_array_from_slice(&data)?;
            scheduler.call(
                env,
                jni_str!("frameworkMessage"),
                jni_sig!("(Lorg/apache/mesos/SchedulerDriver;Lorg/apache/mesos/Protos$ExecutorID;Lorg/apache/mesos/Protos$SlaveID;[B)V"),
                &[JValue::Object(&executor_id), JValue::Object(&agent_id), JValue::Object(&data)],
            )
        }
        Callback::AgentLost(agent_id) => {
            let agent_id = messages.to_java(env, Kind::AgentId, &agent_id)?;
            scheduler.call(
                env,
                jni_str!("slaveLost"),
                jni_sig!("(Lorg/apache/mesos/SchedulerDriver;Lorg/apache/mesos/Protos$SlaveID;)V"),
                &[JValue::Object(&agent_id)],
            )
        }
        Callback::ExecutorLost(executor_id, agent_id, status) => {
            let executor_id = messages.to_java(env, Kind::ExecutorId, &executor_id)?;
            let agent_id = messages.to_java(env, Kind::AgentId, &agent_id)?;
            scheduler.call(
                env,
                jni_str!("executorLost"),
                jni_sig!("(Lorg/apache/mesos/SchedulerDriver;Lorg/apache/mesos/Protos$ExecutorID;Lorg/apache/mesos/Protos$SlaveID;I)V"),
                &[JValue::Object(&executor_id), JValue::Object(&agent_id), JValue::Int(status)],
            )
        }
        Callback::Error(message) => {
            let message = env.new_string(message)?;
            scheduler.call(
                env,
                jni_str!("error"),
                jni_sig!("(Lorg/apache/mesos/SchedulerDriver;Ljava/lang/String;)V"),
                &[JValue::Object(&message)],
            )
        }
    }
}
