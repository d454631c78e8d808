//! `org.apache.mesos.MesosExecutorDriver`: its native methods, and the calls of `org.apache.mesos.Executor`.

use bytes::Bytes;
use jni::objects::{JByteArray, JObject};
use jni::{EnvUnowned, jni_mangle};

use super::callbacks::{Argument, Method, message};
use super::driver::{JavaDriver, JavaRole, native_methods};
use super::handles::Handles;
use super::messages::from_java;
use crate::executor::{Callback, Executor};

native_methods! {
    class "org.apache.mesos.MesosExecutorDriver", role Executor = |_, _| Ok(Executor);

    fn stop() = |_, driver| Ok(driver.stop());

    fn abort() = |_, driver| Ok(driver.abort());

    fn join() = |_, driver| Ok(driver.join());

    fn send_status_update(status: JObject<'_>) = |env, driver| {
        Ok(driver.send_status_update(from_java(env, &status)?))
    };

    fn send_framework_message(data: JByteArray<'_>) = |env, driver| {
        Ok(driver.send_framework_message(Bytes::from(env.convert_byte_array(&data)?)))
    };
}

impl JavaRole for Executor {
    const OBJECT: (&'static str, &'static str) = ("executor", "Executor");

    fn method(callback: Callback) -> Method {
        match callback {
            Callback::Registered(told) => {
                let (executor, framework, agent) = *told;
                ("registered", vec![message(&executor), message(&framework), message(&agent)])
            }
            Callback::Reregistered(agent) => ("reregistered", vec![message(&agent)]),
            Callback::Disconnected => ("disconnected", vec![]),
            Callback::LaunchTask(task) => ("launchTask", vec![message(&*task)]),
            Callback::KillTask(task_id) => ("killTask", vec![message(&task_id)]),
            Callback::FrameworkMessage(data) => ("frameworkMessage", vec![Argument::Bytes(data)]),
            Callback::Shutdown => ("shutdown", vec![]),
            Callback::Error(message) => ("error", vec![Argument::Text(message)]),
        }
    }
}
