//! The thread that runs a driver's callbacks: attached to the JVM once, as a daemon, so that a program whose main
//! method returns ends although its driver lives, as it does with Mesos.

use std::ffi::CString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use jni::objects::JThread;
use jni::refs::Global;
use jni::refs::IntoAuto as _;
use jni::sys::{JNI_OK, JNI_VERSION_1_8, JNIEnv, JavaVMAttachArgs};
use jni::vm::AttachGuard;
use jni::{Env, JavaVM};
use tracing::error;

use crate::driver::panic_message;

/// The class loader that application code expects to find as its thread's own.
pub(super) type ContextLoader = Global<jni::objects::JClassLoader<'static>>;

/// Starts a thread that runs `work` attached to the JVM.
pub(super) fn spawn(
    name: &'static str,
    vm: JavaVM,
    context_loader: Option<ContextLoader>,
    work: impl FnOnce(&mut Env<'_>) + Send + 'static,
) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let attached = catch_unwind(AssertUnwindSafe(|| {
            attach(name, &vm, |env| {
                set_context_loader(env, context_loader);
                work(env);
            })
        }));
        match attached {
            Ok(Ok(())) => {}
            Ok(Err(code)) => error!(code, "the JVM does not accept the thread for callbacks"),
            Err(panic) => error!(message = panic_message(&*panic), "a bug in libmesos"),
        }
    })?;
    Ok(())
}

fn attach(name: &str, vm: &JavaVM, work: impl FnOnce(&mut Env<'_>)) -> Result<(), i32> {
    let raw = vm.get_raw();
    let name = CString::new(name).expect("a thread's name has no zero byte");
    let mut arguments =
        JavaVMAttachArgs { version: JNI_VERSION_1_8, name: name.as_ptr().cast_mut(), group: ptr::null_mut() };
    let mut env: *mut JNIEnv = ptr::null_mut();
    // SAFETY: `raw` is the JVM that loaded this library, which lives as long as the process; the out parameter and
    // the arguments outlive the call. The jni crate has no daemon attachment of its own.
    let code = unsafe {
        ((**raw).v1_4.AttachCurrentThreadAsDaemon)(
            raw,
            ptr::from_mut(&mut env).cast(),
            ptr::from_mut(&mut arguments).cast(),
        )
    };
    if code != JNI_OK {
        return Err(code);
    }
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `env` was made for this thread, which stays attached until the guard is gone.
        let mut guard = unsafe { AttachGuard::from_unowned(env) };
        work(guard.borrow_env_mut());
    }));
    // SAFETY: attached above, by this thread; no Java frame is on its stack and no reference of it is left.
    unsafe { ((**raw).v1_4.DetachCurrentThread)(raw) };
    result.map_err(|panic| {
        error!(message = panic_message(&*panic), "a bug in libmesos");
        0
    })
}

/// A failure leaves the JVM's default.
fn set_context_loader(env: &mut Env<'_>, loader: Option<ContextLoader>) {
    let Some(loader) = loader else { return };
    let set = env.with_local_frame(8, |env| {
        let thread = JThread::current_thread(env)?;
        thread.set_context_class_loader(env, &loader)
    });
    if set.is_err() {
        env.exception_clear();
    }
}

/// The class loader of the thread that calls; `None` for the JVM's default.
pub(super) fn context_loader(env: &mut Env<'_>) -> jni::errors::Result<Option<ContextLoader>> {
    let thread = JThread::current_thread(env)?.auto();
    let loader = thread.get_context_class_loader(env)?.auto();
    if loader.is_null() { Ok(None) } else { Ok(Some(env.new_global_ref(&*loader)?)) }
}
