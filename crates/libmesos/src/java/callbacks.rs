//! Calls from the library into the program's scheduler or executor.

use jni::objects::JObject;
use jni::refs::IntoAuto as _;
use jni::refs::Weak;
use jni::signature::MethodSignature;
use jni::strings::JNIStr;
use jni::{Env, JValue};

use super::NativeError;
use super::messages::Messages;

/// Enough for the arguments of any callback; elements of lists are released one by one.
const LOCAL_REFERENCES: usize = 32;

/// What callbacks need of Java.
pub(super) struct Callbacks {
    /// Weak: a driver that the program has forgotten may be collected, which ends it.
    driver: Weak<JObject<'static>>,
    pub(super) messages: Messages,
}

/// Whom a callback is for, and the driver, which is the first argument of each.
pub(super) struct Receiver<'local> {
    pub(super) object: JObject<'local>,
    pub(super) driver: JObject<'local>,
}

/// The callback did not return normally; what it threw is printed.
pub(super) struct Failed;

impl Callbacks {
    pub(super) fn new(env: &mut Env<'_>, driver: &JObject<'_>) -> Result<Self, NativeError> {
        let loader = env.get_object_class(driver)?.auto().get_class_loader(env)?.auto();
        Ok(Self { driver: env.new_weak_ref(driver)?, messages: Messages::load(env, &loader)? })
    }

    /// Runs `callback` with the driver's object; every local reference is released afterwards. What the program
    /// throws goes to standard error, as with Mesos.
    pub(super) fn invoke(
        &self,
        env: &mut Env<'_>,
        callback: impl for<'local> FnOnce(&mut Env<'local>, JObject<'local>) -> Result<(), NativeError>,
    ) -> Result<(), Failed> {
        let result = env.with_local_frame(LOCAL_REFERENCES, |env| match self.driver.upgrade_local(env)? {
            Some(driver) => callback(env, driver),
            // The program has forgotten its driver: nobody is there to hear.
            None => Err(NativeError::NoDriver),
        });
        let Err(error) = result else { return Ok(()) };
        if env.exception_check() {
            env.exception_describe();
            env.exception_clear();
        } else {
            tracing::warn!(%error, "a callback could not be made");
        }
        Err(Failed)
    }
}

impl Receiver<'_> {
    /// Calls a method that takes the driver and then `arguments`.
    pub(super) fn call<'sig, 'args>(
        &self,
        env: &mut Env<'_>,
        name: &JNIStr,
        signature: MethodSignature<'sig, 'args>,
        arguments: &[JValue<'_>],
    ) -> Result<(), NativeError> {
        let mut all = vec![JValue::Object(&self.driver)];
        all.extend_from_slice(arguments);
        env.call_method(&self.object, name, signature, &all)?;
        Ok(())
    }
}
