//! The native sides of Java objects, found by the number in the object's `__driver` field. Numbers, not pointers:
//! a stale one finds nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jni::objects::JObject;
use jni::{Env, JValue, jni_sig, jni_str};

use super::NativeError;

pub(super) struct Handles<T> {
    next: AtomicI64,
    live: Mutex<Option<HashMap<i64, Arc<T>>>>,
}

impl<T> Handles<T> {
    pub(super) const fn new() -> Self {
        // Zero is Java's default: an object that was never initialized.
        Self { next: AtomicI64::new(1), live: Mutex::new(None) }
    }

    /// Ties `value` to the Java object until `release`.
    pub(super) fn attach(
        &self,
        env: &mut Env<'_>,
        object: &JObject<'_>,
        value: Arc<T>,
    ) -> Result<(), NativeError> {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().get_or_insert_default().insert(handle, value);
        env.set_field(object, jni_str!("__driver"), jni_sig!("J"), JValue::Long(handle))?;
        Ok(())
    }

    pub(super) fn get(&self, env: &mut Env<'_>, object: &JObject<'_>) -> Result<Arc<T>, NativeError> {
        let handle = env.get_field(object, jni_str!("__driver"), jni_sig!("J"))?.j()?;
        self.lock().as_ref().and_then(|live| live.get(&handle).cloned()).ok_or(NativeError::NoDriver)
    }

    /// `None` when there was nothing: the constructor had failed.
    pub(super) fn release(
        &self,
        env: &mut Env<'_>,
        object: &JObject<'_>,
    ) -> Result<Option<Arc<T>>, NativeError> {
        let handle = env.get_field(object, jni_str!("__driver"), jni_sig!("J"))?.j()?;
        env.set_field(object, jni_str!("__driver"), jni_sig!("J"), JValue::Long(0))?;
        Ok(self.lock().as_mut().and_then(|live| live.remove(&handle)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HashMap<i64, Arc<T>>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
