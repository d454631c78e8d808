//! Calls from the library into the program's scheduler or executor.

use bytes::Bytes;
use jni::objects::JObject;
use jni::refs::IntoAuto as _;
use jni::refs::Weak;
use jni::signature::{RuntimeFieldSignature, RuntimeMethodSignature};
use jni::strings::JNIString;
use jni::{Env, JValue, JValueOwned, jni_sig, jni_str};

use super::NativeError;
use super::messages::{JavaMessage, Messages, string_from_java};
use crate::driver::Over;

/// Enough for the arguments of any callback; elements of lists are released one by one.
const LOCAL_REFERENCES: usize = 32;

/// What callbacks need of Java.
pub(super) struct Callbacks {
    /// Weak: a driver that the program has forgotten may be collected, which ends it.
    driver: Weak<JObject<'static>>,
    pub(super) messages: Messages,
}

/// A method of the program's object and its arguments, of which the first, the driver, goes without saying.
pub(super) type Method = (&'static str, Vec<Argument>);

/// Messages with their classes, encoded.
pub(super) enum Argument {
    Message(&'static str, Vec<u8>),
    List(&'static str, Vec<Vec<u8>>),
    Bytes(Bytes),
    Text(String),
    Int(i32),
}

impl Callbacks {
    pub(super) fn new(env: &mut Env<'_>, driver: &JObject<'_>) -> Result<Self, NativeError> {
        let loader = env.get_object_class(driver)?.auto().get_class_loader(env)?.auto();
        Ok(Self { driver: env.new_weak_ref(driver)?, messages: Messages::load(env, &loader)? })
    }

    /// Calls a method of the object in the driver's field, which is an `interface` of Mesos. What the program throws
    /// goes to standard error, as with Mesos.
    pub(super) fn invoke(
        &self,
        env: &mut Env<'_>,
        (field, interface): (&str, &str),
        method: Method,
    ) -> Result<(), Over> {
        let name = method.0;
        // Every local reference is released afterwards.
        let result = env.with_local_frame(LOCAL_REFERENCES, |env| {
            // The program may have forgotten its driver: then nobody is there to hear.
            let driver = self.driver.upgrade_local(env)?.ok_or(NativeError::NoDriver)?;
            let object = object_of(env, &driver, (field, interface))?;
            self.call(env, &object, &format!("Lorg/apache/mesos/{interface}Driver;"), driver, method)
        });
        let Err(error) = result else { return Ok(()) };
        if env.exception_check() {
            let thrown = thrown(env).unwrap_or_else(|error| format!("something unknown ({error})"));
            return Err(Over::because(format!("{interface}.{name} has thrown {thrown}")));
        }
        tracing::warn!(%error, "a callback could not be made");
        Err(match error {
            NativeError::NoDriver => Over(None),
            error => Over::because(format!("{interface}.{name} could not be called: {error}")),
        })
    }

    /// Runs `work` with the object in the driver's field, if the program has not forgotten its driver.
    pub(super) fn with_object(
        &self,
        env: &mut Env<'_>,
        field: (&str, &str),
        work: impl FnOnce(&mut Env<'_>, &JObject<'_>) -> Result<(), NativeError>,
    ) -> Result<(), NativeError> {
        env.with_local_frame(LOCAL_REFERENCES, |env| match self.driver.upgrade_local(env)? {
            Some(driver) => {
                let object = object_of(env, &driver, field)?;
                work(env, &object)
            }
            None => Ok(()),
        })
    }

    fn call<'local>(
        &self,
        env: &mut Env<'local>,
        object: &JObject<'_>,
        driver_class: &str,
        driver: JObject<'local>,
        (name, arguments): Method,
    ) -> Result<(), NativeError> {
        let mut signature = format!("({driver_class}");
        let mut values = vec![JValueOwned::from(driver)];
        for argument in arguments {
            signature += &argument.signature();
            values.push(argument.to_java(env, &self.messages)?);
        }
        let signature = RuntimeMethodSignature::from_str(signature + ")V")?;
        let values: Vec<_> = values.iter().map(JValue::from).collect();
        env.call_method(object, JNIString::from(name), signature.method_signature(), &values)?;
        Ok(())
    }
}

fn object_of<'local>(
    env: &mut Env<'local>,
    driver: &JObject<'_>,
    (field, interface): (&str, &str),
) -> Result<JObject<'local>, NativeError> {
    let class = RuntimeFieldSignature::from_str(format!("Lorg/apache/mesos/{interface};"))?;
    Ok(env.get_field(driver, JNIString::from(field), class.field_signature())?.l()?)
}

/// Prints what the program has thrown, with its stack, and gives its class and message.
fn thrown(env: &mut Env<'_>) -> Result<String, NativeError> {
    let exception = env.exception_occurred();
    env.exception_describe();
    env.exception_clear();
    let Some(exception) = exception else { return Ok("nothing".to_owned()) };
    let exception = exception.auto();
    let text = env
        .call_method(&*exception, jni_str!("toString"), jni_sig!("()Ljava/lang/String;"), &[])
        .and_then(|text| text.l());
    // A `toString` that throws.
    env.exception_clear();
    string_from_java(env, &text?.auto())
}

pub(super) fn message<M: JavaMessage>(message: &M) -> Argument {
    Argument::Message(M::CLASS, message.encode_to_vec())
}

pub(super) fn list<M: JavaMessage>(messages: &[M]) -> Argument {
    Argument::List(M::CLASS, messages.iter().map(M::encode_to_vec).collect())
}

impl Argument {
    fn signature(&self) -> String {
        match self {
            Self::Message(class, _) => format!("Lorg/apache/mesos/Protos${class};"),
            Self::List(..) => "Ljava/util/List;".to_owned(),
            Self::Bytes(_) => "[B".to_owned(),
            Self::Text(_) => "Ljava/lang/String;".to_owned(),
            Self::Int(_) => "I".to_owned(),
        }
    }

    fn to_java<'local>(
        &self,
        env: &mut Env<'local>,
        messages: &Messages,
    ) -> Result<JValueOwned<'local>, NativeError> {
        Ok(match self {
            Self::Message(class, bytes) => messages.to_java(env, class, bytes)?.into(),
            Self::List(class, elements) => {
                let list = env.new_object(jni_str!("java/util/ArrayList"), jni_sig!("()V"), &[])?;
                for bytes in elements {
                    let element = messages.to_java(env, class, bytes)?.auto();
                    let signature = jni_sig!("(Ljava/lang/Object;)Z");
                    env.call_method(&list, jni_str!("add"), signature, &[JValue::Object(&element)])?;
                }
                list.into()
            }
            Self::Bytes(bytes) => env.byte_array_from_slice(bytes)?.into(),
            Self::Text(text) => env.new_string(text)?.into(),
            Self::Int(number) => JValueOwned::Int(*number),
        })
    }
}
