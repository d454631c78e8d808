//! `org.apache.mesos.MesosNativeLibrary`, and the library's loading.

use std::ffi::c_void;
use std::panic::catch_unwind;

use jni::objects::{JClass, JObject};
use jni::refs::IntoAuto as _;
use jni::sys::{JNI_ERR, JNI_VERSION_1_8, jint};
use jni::{EnvUnowned, JValue, JavaVM, jni_sig, jni_str};

use super::native;
use crate::logging;

/// The version of Mesos whose bindings and protocol this library speaks.
const VERSION: (i64, i64, i64) = (1, 12, 0);

/// The JVM calls it when it loads the library. Marks the library as loaded in the Java class, which would otherwise
/// load it again when the program had loaded it by itself.
#[unsafe(no_mangle)]
extern "system" fn JNI_OnLoad(vm: *mut jni::sys::JavaVM, _reserved: *mut c_void) -> jint {
    let loaded = catch_unwind(|| {
        logging::initialize();
        // SAFETY: the JVM passes itself.
        let vm = unsafe { JavaVM::from_raw(vm) };
        vm.attach_current_thread(|env| -> jni::errors::Result<()> {
            let class = env.find_class(jni_str!("org/apache/mesos/MesosNativeLibrary"))?.auto();
            env.set_static_field(&class, jni_str!("loaded"), jni_sig!("Z"), JValue::Bool(true))
        })
    });
    if matches!(loaded, Ok(Ok(()))) { JNI_VERSION_1_8 } else { JNI_ERR }
}

#[unsafe(export_name = "Java_org_apache_mesos_MesosNativeLibrary__1version")]
extern "system" fn version<'local>(env: EnvUnowned<'local>, _class: JClass<'local>) -> JObject<'local> {
    native(env, |env| {
        let (major, minor, patch) = VERSION;
        let arguments = [JValue::Long(major), JValue::Long(minor), JValue::Long(patch)];
        let class = jni_str!("org/apache/mesos/MesosNativeLibrary$Version");
        Ok(env.new_object(class, jni_sig!("(JJJ)V"), &arguments)?)
    })
}
