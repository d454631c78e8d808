//! Protobuf messages from and to Java. The Java classes are looked up once per driver, with the driver's own class
//! loader: a thread that the JVM did not start would not find an application's classes.

use std::collections::HashMap;

use bellows_wire::v1;
use jni::ids::JStaticMethodID;
use jni::objects::{JByteArray, JClass, JClassLoader, JObject, JObjectArray};
use jni::refs::IntoAuto as _;
use jni::refs::{Global, LoaderContext};
use jni::signature::{ReturnType, RuntimeMethodSignature};
use jni::strings::JNIString;
use jni::{Env, jni_sig, jni_str};
use prost::Message;

use super::NativeError;
use crate::lifecycle::Status;

/// Where Mesos' Java messages live.
const PROTOS: &str = "org.apache.mesos.Protos";

/// A message, and the class in `Protos` that is its Java counterpart; the names are those of version 0.
pub(super) trait JavaMessage: Message + Default {
    const CLASS: &'static str;
}

macro_rules! java_messages {
    ($($message:ty => $class:literal,)*) => {
        const CLASSES: &[&str] = &[$($class),*];
        $(impl JavaMessage for $message {
            const CLASS: &'static str = $class;
        })*
    };
}

java_messages! {
    v1::AgentId => "SlaveID",
    v1::AgentInfo => "SlaveInfo",
    v1::Credential => "Credential",
    v1::ExecutorId => "ExecutorID",
    v1::ExecutorInfo => "ExecutorInfo",
    v1::Filters => "Filters",
    v1::FrameworkId => "FrameworkID",
    v1::FrameworkInfo => "FrameworkInfo",
    v1::MasterInfo => "MasterInfo",
    v1::Offer => "Offer",
    v1::offer::Operation => "Offer$Operation",
    v1::OfferId => "OfferID",
    v1::Request => "Request",
    v1::TaskId => "TaskID",
    v1::TaskInfo => "TaskInfo",
    v1::TaskStatus => "TaskStatus",
}

/// Global references: freed with the value, which must happen while the JVM lives.
pub(super) struct Messages {
    /// By the name of the class.
    parsers: HashMap<&'static str, StaticMethod>,
    status_for_number: StaticMethod,
}

/// A method that takes one argument and gives an object.
struct StaticMethod {
    class: Global<JClass<'static>>,
    id: JStaticMethodID,
}

impl Messages {
    pub(super) fn load(env: &mut Env<'_>, loader: &JClassLoader<'_>) -> Result<Self, NativeError> {
        let parsers = CLASSES
            .iter()
            .map(|class| Ok((*class, StaticMethod::load(env, loader, class, "parseFrom", "[B")?)))
            .collect::<Result<_, NativeError>>()?;
        Ok(Self { parsers, status_for_number: StaticMethod::load(env, loader, "Status", "valueOf", "I")? })
    }

    /// `class` is a `JavaMessage`'s, and `bytes` are one of its messages.
    pub(super) fn to_java<'local>(
        &self,
        env: &mut Env<'local>,
        class: &'static str,
        bytes: &[u8],
    ) -> Result<JObject<'local>, NativeError> {
        let bytes = env.byte_array_from_slice(bytes)?.auto();
        // SAFETY: every parser was looked up as a static method that takes one byte array.
        unsafe { self.parsers[class].call(env, jni::sys::jvalue { l: bytes.as_raw() }) }
    }

    /// `Protos.Status`, of the class loader that the caller's classes come from.
    pub(super) fn status<'local>(
        &self,
        env: &mut Env<'local>,
        status: Status,
    ) -> Result<JObject<'local>, NativeError> {
        // SAFETY: the method was looked up as a static method that takes one int.
        unsafe { self.status_for_number.call(env, jni::sys::jvalue { i: status as i32 }) }
    }
}

impl StaticMethod {
    fn load(
        env: &mut Env<'_>,
        loader: &JClassLoader<'_>,
        message: &str,
        method: &str,
        argument: &str,
    ) -> Result<Self, NativeError> {
        let binary_name = format!("{PROTOS}${message}");
        let signature = format!("({argument})L{};", binary_name.replace('.', "/"));
        let signature = RuntimeMethodSignature::from_str(signature)?;
        let context = LoaderContext::Loader(loader);
        let class = context.load_class(env, JNIString::from(binary_name), true)?.auto();
        let id = env.get_static_method_id(&*class, JNIString::from(method), signature.method_signature())?;
        Ok(Self { class: env.new_global_ref(&*class)?, id })
    }

    /// # Safety
    /// `argument` is of the kind that the method was looked up with.
    unsafe fn call<'local>(
        &self,
        env: &mut Env<'local>,
        argument: jni::sys::jvalue,
    ) -> Result<JObject<'local>, NativeError> {
        // SAFETY: the id belongs to this class, which the global reference keeps loaded; the method returns an
        // object, and the caller answers for the argument.
        let result = unsafe {
            env.call_static_method_unchecked(&self.class, self.id, ReturnType::Object, &[argument])?
        };
        Ok(result.l()?)
    }
}

/// A message from a Java message object.
pub(super) fn from_java<M: JavaMessage>(env: &mut Env<'_>, object: &JObject<'_>) -> Result<M, NativeError> {
    let bytes = env.call_method(object, jni_str!("toByteArray"), jni_sig!("()[B"), &[])?.l()?.auto();
    // SAFETY: the method's signature says that it returns a byte array.
    let bytes = unsafe { JByteArray::from_raw(env, bytes.as_raw()) };
    let bytes = env.convert_byte_array(&bytes)?;
    M::decode(bytes.as_slice()).map_err(|source| NativeError::Decode { message: M::CLASS, source })
}

/// Messages from a `java.util.Collection` of message objects.
pub(super) fn all_from_java<M: JavaMessage>(
    env: &mut Env<'_>,
    collection: &JObject<'_>,
) -> Result<Vec<M>, NativeError> {
    each(env, collection, from_java)
}

/// Strings from a `java.util.Collection` of strings.
pub(super) fn strings_from_java(
    env: &mut Env<'_>,
    collection: &JObject<'_>,
) -> Result<Vec<String>, NativeError> {
    each(env, collection, string_from_java)
}

/// Text from a `java.lang.String`.
pub(super) fn string_from_java(env: &mut Env<'_>, string: &JObject<'_>) -> Result<String, NativeError> {
    let string = env.as_cast::<jni::objects::JString<'_>>(string)?;
    Ok(string.try_to_string(env)?)
}

fn each<T>(
    env: &mut Env<'_>,
    collection: &JObject<'_>,
    mut read: impl FnMut(&mut Env<'_>, &JObject<'_>) -> Result<T, NativeError>,
) -> Result<Vec<T>, NativeError> {
    let array =
        env.call_method(collection, jni_str!("toArray"), jni_sig!("()[Ljava/lang/Object;"), &[])?.l()?.auto();
    // SAFETY: the method's signature says that it returns an array of objects.
    let array = unsafe { JObjectArray::<JObject<'_>>::from_raw(env, array.as_raw()) };
    let length = array.len(env)?;
    let mut values = Vec::with_capacity(length);
    for index in 0..length {
        // Released at once: a collection may be larger than the local references a native method may hold.
        let element = array.get_element(env, index)?.auto();
        values.push(read(env, &element)?);
    }
    Ok(values)
}
