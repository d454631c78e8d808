//! `org.apache.mesos.MesosExecutorDriver`: its native methods, and the calls of `org.apache.mesos.Executor`.

use std::sync::Arc;

use bytes::Bytes;
use jni::objects::{JByteArray, JObject};
use jni::{Env, EnvUnowned, JValue, jni_sig, jni_str};

use super::callbacks::{Callbacks, Receiver};
use super::handles::Handles;
use super::messages::{Kind, from_java};
use super::{NativeError, native, status_to_java, thread};
use crate::executor::{Callback, ExecutorDriver};
use crate::lifecycle::Status;
use crate::scheduler::CallbackFailed;

static DRIVERS: Handles<JavaDriver> = Handles::new();

/// The native side of one `MesosExecutorDriver`.
struct JavaDriver {
    driver: Arc<ExecutorDriver>,
    callbacks: Arc<Callbacks>,
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosExecutorDriver_initialize")]
extern "system" fn initialize<'local>(env: EnvUnowned<'local>, object: JObject<'local>) {
    native(env, |env| {
        let callbacks = Arc::new(Callbacks::new(env, &object)?);
        let driver = JavaDriver { driver: Arc::new(ExecutorDriver::new()), callbacks };
        DRIVERS.attach(env, &object, Arc::new(driver))
    });
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosExecutorDriver_finalize")]
extern "system" fn finalize<'local>(env: EnvUnowned<'local>, object: JObject<'local>) {
    native(env, |env| {
        if let Some(driver) = DRIVERS.release(env, &object)? {
            driver.driver.discard();
        }
        Ok(())
    });
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosExecutorDriver_start")]
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

#[unsafe(export_name = "Java_org_apache_mesos_MesosExecutorDriver_stop")]
extern "system" fn stop<'local>(env: EnvUnowned<'local>, object: JObject<'local>) -> JObject<'local> {
    call(env, &object, |_, driver| Ok(driver.stop()))
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosExecutorDriver_abort")]
extern "system" fn abort<'local>(env: EnvUnowned<'local>, object: JObject<'local>) -> JObject<'local> {
    call(env, &object, |_, driver| Ok(driver.abort()))
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosExecutorDriver_join")]
extern "system" fn join<'local>(env: EnvUnowned<'local>, object: JObject<'local>) -> JObject<'local> {
    call(env, &object, |_, driver| Ok(driver.join()))
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosExecutorDriver_sendStatusUpdate")]
extern "system" fn send_status_update<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    status: JObject<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| Ok(driver.send_status_update(from_java(env, "TaskStatus", &status)?)))
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosExecutorDriver_sendFrameworkMessage")]
extern "system" fn send_framework_message<'local>(
    env: EnvUnowned<'local>,
    object: JObject<'local>,
    data: JByteArray<'local>,
) -> JObject<'local> {
    call(env, &object, |env, driver| {
        Ok(driver.send_framework_message(Bytes::from(env.convert_byte_array(&data)?)))
    })
}

fn call<'local>(
    env: EnvUnowned<'local>,
    object: &JObject<'local>,
    method: impl FnOnce(&mut Env<'local>, &ExecutorDriver) -> Result<Status, NativeError>,
) -> JObject<'local> {
    native(env, |env| {
        let java = DRIVERS.get(env, object)?;
        let status = method(env, &java.driver)?;
        status_to_java(env, &java.callbacks.messages, status)
    })
}

/// The program's executor hears one callback.
fn invoke(callbacks: &Callbacks, env: &mut Env<'_>, callback: Callback) -> Result<(), CallbackFailed> {
    let invoked = callbacks.invoke(env, |env, driver| {
        let executor =
            env.get_field(&driver, jni_str!("executor"), jni_sig!("Lorg/apache/mesos/Executor;"))?.l()?;
        call_executor(env, callbacks, &Receiver { object: executor, driver }, callback)
    });
    invoked.map_err(|_| CallbackFailed)
}

fn call_executor(
    env: &mut Env<'_>,
    callbacks: &Callbacks,
    executor: &Receiver<'_>,
    callback: Callback,
) -> Result<(), NativeError> {
    let messages = &callbacks.messages;
    match callback {
        Callback::Registered(told) => {
            let (executor_info, framework_info, agent_info) = *told;
            let executor_info = messages.to_java(env, Kind::ExecutorInfo, &executor_info)?;
            let framework_info = messages.to_java(env, Kind::FrameworkInfo, &framework_info)?;
            let agent_info = messages.to_java(env, Kind::AgentInfo, &agent_info)?;
            executor.call(
                env,
                jni_str!("registered"),
                jni_sig!("(Lorg/apache/mesos/ExecutorDriver;Lorg/apache/mesos/Protos$ExecutorInfo;Lorg/apache/mesos/Protos$FrameworkInfo;Lorg/apache/mesos/Protos$SlaveInfo;)V"),
                &[
                    JValue::Object(&executor_info),
                    JValue::Object(&framework_info),
                    JValue::Object(&agent_info),
                ],
            )
        }
        Callback::Reregistered(agent_info) => {
            let agent_info = messages.to_java(env, Kind::AgentInfo, &agent_info)?;
            executor.call(
                env,
                jni_str!("reregistered"),
                jni_sig!("(Lorg/apache/mesos/ExecutorDriver;Lorg/apache/mesos/Protos$SlaveInfo;)V"),
                &[JValue::Object(&agent_info)],
            )
        }
        Callback::Disconnected => executor.call(
            env,
            jni_str!("disconnected"),
            jni_sig!("(Lorg/apache/mesos/ExecutorDriver;)V"),
            &[],
        ),
        Callback::LaunchTask(task) => {
            let task = messages.to_java(env, Kind::TaskInfo, &*task)?;
            executor.call(
                env,
                jni_str!("launchTask"),
                jni_sig!("(Lorg/apache/mesos/ExecutorDriver;Lorg/apache/mesos/Protos$TaskInfo;)V"),
                &[JValue::Object(&task)],
            )
        }
        Callback::KillTask(task_id) => {
            let task_id = messages.to_java(env, Kind::TaskId, &task_id)?;
            executor.call(
                env,
                jni_str!("killTask"),
                jni_sig!("(Lorg/apache/mesos/ExecutorDriver;Lorg/apache/mesos/Protos$TaskID;)V"),
                &[JValue::Object(&task_id)],
            )
        }
        Callback::FrameworkMessage(data) => {
            let data = env.byte_array_from_slice(&data)?;
            executor.call(
                env,
                jni_str!("frameworkMessage"),
                jni_sig!("(Lorg/apache/mesos/ExecutorDriver;[B)V"),
                &[JValue::Object(&data)],
            )
        }
        Callback::Shutdown => {
            executor.call(env, jni_str!("shutdown"), jni_sig!("(Lorg/apache/mesos/ExecutorDriver;)V"), &[])
        }
        Callback::Error(message) => {
            let message = env.new_string(message)?;
            executor.call(
                env,
                jni_str!("error"),
                jni_sig!("(Lorg/apache/mesos/ExecutorDriver;Ljava/lang/String;)V"),
                &[JValue::Object(&message)],
            )
        }
    }
}
