//! Everything that touches the JVM: the exported functions, conversions, threads and references.
//!
//! Protobuf messages cross as bytes: the Java classes are Mesos' v0 messages, ours v1, and their field numbers are
//! the same. Every native method runs inside of `native`, which catches panics and throws them as Java exceptions.
#![allow(unsafe_code)] // JNI's exports and raw calls; each block says why it is sound.
#![allow(unreachable_pub)] // `jni_mangle` wants it of what it exports.

mod callbacks;
mod driver;
mod executor;
mod handles;
mod library;
mod messages;
mod scheduler;
mod spark;
mod thread;

use jni::errors::{Error, ErrorPolicy};
use jni::{Env, EnvUnowned, jni_str};
use thiserror::Error as ThisError;

use crate::driver::panic_message;

#[derive(Debug, ThisError)]
enum NativeError {
    #[error(transparent)]
    Java(#[from] Error),
    #[error("cannot read a {message} from Java: {source}")]
    Decode { message: &'static str, source: prost::DecodeError },
    /// The object's native side is gone, or never was.
    #[error("the driver was not initialized, or is finalized")]
    NoDriver,
    #[error("{0}")]
    Misuse(&'static str),
}

/// Runs a native method; whatever goes wrong becomes a Java exception, never an unwinding into the JVM.
fn native<'local, T: Default>(
    mut env: EnvUnowned<'local>,
    method: impl FnOnce(&mut Env<'local>) -> Result<T, NativeError>,
) -> T {
    env.with_env(method).resolve::<ThrowException>()
}

struct ThrowException;

impl<T: Default> ErrorPolicy<T, NativeError> for ThrowException {
    type Captures<'unowned_env_local: 'native_method, 'native_method> = ();

    fn on_error<'unowned_env_local: 'native_method, 'native_method>(
        env: &mut Env<'unowned_env_local>,
        _captures: &mut (),
        error: NativeError,
    ) -> jni::errors::Result<T> {
        // What Java code has thrown goes on by itself.
        if !env.exception_check() {
            let class = match error {
                NativeError::Java(Error::NullPtr(_)) => jni_str!("java/lang/NullPointerException"),
                NativeError::NoDriver | NativeError::Misuse(_) => jni_str!("java/lang/IllegalStateException"),
                _ => jni_str!("java/lang/RuntimeException"),
            };
            throw(env, class, &error.to_string());
        }
        Ok(T::default())
    }

    fn on_panic<'unowned_env_local: 'native_method, 'native_method>(
        env: &mut Env<'unowned_env_local>,
        _captures: &mut (),
        panic: Box<dyn std::any::Any + Send + 'static>,
    ) -> jni::errors::Result<T> {
        let message = panic_message(&*panic);
        if !env.exception_check() {
            throw(env, jni_str!("java/lang/RuntimeException"), &format!("a bug in libmesos: {message}"));
        }
        Ok(T::default())
    }
}

fn throw(env: &mut Env<'_>, class: &jni::strings::JNIStr, message: &str) {
    // `throw_new` answers with an error when it has thrown.
    let _ = env.throw_new(class, jni::strings::JNIString::from(message));
}
