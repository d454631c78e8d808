//! The native side of a driver's Java object, whichever driver it is, and the export of its class' native methods.

use std::sync::Arc;

use jni::objects::JObject;
use jni::{Env, EnvUnowned};

use super::callbacks::{Callbacks, Method};
use super::handles::Handles;
use super::{NativeError, native, thread};
use crate::driver::{Driver, Over, Role};
use crate::lifecycle::Status;

/// How the program's object is called.
pub(super) trait JavaRole: Role {
    /// The driver's field with the program's object, and the interface that this has.
    const OBJECT: (&'static str, &'static str);
    fn method(callback: Self::Callback) -> Method;

    /// Called on the callbacks' thread after a driver was aborted by what the program did not ask for.
    fn aborted(_driver: &Driver<Self>, _callbacks: &Callbacks, _env: &mut Env<'_>) {}
}

pub(super) struct JavaDriver<R: Role> {
    driver: Arc<Driver<R>>,
    callbacks: Arc<Callbacks>,
}

impl<R: JavaRole> Handles<JavaDriver<R>> {
    pub(super) fn initialize<'local>(
        &self,
        env: EnvUnowned<'local>,
        object: &JObject<'local>,
        role: impl FnOnce(&mut Env<'local>, &JObject<'local>) -> Result<R, NativeError>,
    ) {
        native(env, |env| {
            let driver = Arc::new(Driver::new(role(env, object)?));
            let callbacks = Arc::new(Callbacks::new(env, object)?);
            self.attach(env, object, Arc::new(JavaDriver { driver, callbacks }))
        });
    }

    pub(super) fn finalize<'local>(&self, env: EnvUnowned<'local>, object: &JObject<'local>) {
        native(env, |env| {
            // Not stopped, as that would end the framework: another process may take it over.
            if let Some(java) = self.release(env, object)? {
                java.driver.discard();
            }
            Ok(())
        });
    }

    pub(super) fn start<'local>(&self, env: EnvUnowned<'local>, object: &JObject<'local>) -> JObject<'local> {
        native(env, |env| {
            let java = self.get(env, object)?;
            let vm = env.get_java_vm()?;
            let context_loader = thread::context_loader(env)?;
            let JavaDriver { driver, callbacks } = java.as_ref();
            let (driver, callbacks) = (Arc::clone(driver), Arc::clone(callbacks));
            let started = java.driver.start(|work| {
                thread::spawn("mesos-callbacks", vm, context_loader, move |env| {
                    if work.run(|callback| invoke::<R>(&callbacks, env, callback)) {
                        R::aborted(&driver, &callbacks, env);
                    }
                })
            });
            let status = match started {
                Ok(status) => status,
                Err(message) => {
                    if invoke::<R>(&java.callbacks, env, R::error(message)).is_err() {
                        tracing::warn!("the error callback threw");
                    }
                    java.driver.join()
                }
            };
            java.callbacks.messages.status(env, status)
        })
    }

    pub(super) fn call<'local>(
        &self,
        env: EnvUnowned<'local>,
        object: &JObject<'local>,
        method: impl FnOnce(&mut Env<'local>, &Driver<R>) -> Result<Status, NativeError>,
    ) -> JObject<'local> {
        native(env, |env| {
            let java = self.get(env, object)?;
            let status = method(env, &java.driver)?;
            java.callbacks.messages.status(env, status)
        })
    }
}

fn invoke<R: JavaRole>(callbacks: &Callbacks, env: &mut Env<'_>, callback: R::Callback) -> Result<(), Over> {
    callbacks.invoke(env, R::OBJECT, R::method(callback))
}

/// Exports the native methods of a driver's class: those that every driver has, and those that are listed. A listed one
/// is called as in Java, in snake case; an overloaded one is listed with its name in Java and its signature.
macro_rules! native_methods {
    (
        class $class:tt, role $role:ty = $new:expr;
        $($(#[doc = $doc:literal])* $([$java_name:tt, $signature:tt])?
        fn $name:ident($($argument:ident: $type:ty),*) = $method:expr;)*
    ) => {
        static DRIVERS: Handles<JavaDriver<$role>> = Handles::new();

        #[jni_mangle($class)]
        pub extern "system" fn initialize<'local>(env: EnvUnowned<'local>, object: JObject<'local>) {
            DRIVERS.initialize(env, &object, $new);
        }

        #[jni_mangle($class)]
        pub extern "system" fn finalize<'local>(env: EnvUnowned<'local>, object: JObject<'local>) {
            DRIVERS.finalize(env, &object);
        }

        #[jni_mangle($class)]
        pub extern "system" fn start<'local>(env: EnvUnowned<'local>, object: JObject<'local>) -> JObject<'local> {
            DRIVERS.start(env, &object)
        }

        $($(#[doc = $doc])*
        #[jni_mangle($class $(, $java_name, $signature)?)]
        pub extern "system" fn $name<'local>(
            env: EnvUnowned<'local>,
            object: JObject<'local>,
            $($argument: $type),*
        ) -> JObject<'local> {
            DRIVERS.call(env, &object, $method)
        })*
    };
}
pub(super) use native_methods;
