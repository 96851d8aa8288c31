//! Reading arguments: names of keys, contexts, times, paths.

use std::net::IpAddr;
use std::path::PathBuf;

use kms_lib::{Actor, Context, KeyRef, Paging, Timestamp};
use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict, PyString, PyType};
use pyo3::{Borrowed, intern};

use crate::errors::{Failure, Outcome, invalid, wrong_type};

/// The text of a `str`. A `str` that cannot be encoded as UTF-8 is refused.
pub fn text<'a>(value: &'a Bound<'_, PyAny>, what: &str) -> Outcome<std::borrow::Cow<'a, str>> {
    let Ok(value) = value.cast::<PyString>() else {
        return Err(wrong_type(format!("{what} must be a str, not {}", value.get_type().name()?)));
    };
    value.to_cow().map_err(|error| match error.is_instance_of::<PyUnicodeEncodeError>(value.py()) {
        true => invalid(format!("{what} contains lone surrogates, which cannot be encoded as UTF-8")),
        false => Failure::Python(error),
    })
}

/// A `str` argument. Every text of the caller is read through this type, so that each kind of fault raises the same
/// exception everywhere.
pub struct Text(pub String);

impl<'py> FromPyObject<'_, 'py> for Text {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(text(&value, "the argument")?.into_owned()))
    }
}

/// The text of an optional argument.
pub fn optional(value: Option<Text>) -> Option<String> {
    value.map(|text| text.0)
}

/// A key argument: a name, an id, or a `Key`.
pub struct Key(pub KeyRef);

impl<'py> FromPyObject<'_, 'py> for Key {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        static KEY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let py = value.py();
        if value.cast::<PyString>().is_err() {
            if value.is_instance(KEY.import(py, "mini_kms._results", "Key")?)? {
                let id = value.getattr(intern!(py, "id"))?;
                return Ok(Self(KeyRef::from(&*text(&id, "the id of a key")?)));
            }
            let text = format!("a key must be a str or a Key, not {}", value.get_type().name()?);
            return Err(PyTypeError::new_err(text));
        }
        Ok(Self(KeyRef::from(&*text(&value, "a key")?)))
    }
}

/// An encryption context argument: a mapping of texts, or None.
pub struct ContextArgument(pub Context);

impl<'py> FromPyObject<'_, 'py> for ContextArgument {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(read_context(&value)?))
    }
}

/// Reads a context; None means the empty one.
pub fn read_context(value: &Bound<'_, PyAny>) -> Outcome<Context> {
    let mut context = Context::new();
    if value.is_none() {
        return Ok(context);
    }
    let mut add = |name: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>| -> Outcome<()> {
        context.set(text(name, "a name of a context")?, text(value, "a value of a context")?);
        Ok(())
    };
    if let Ok(entries) = value.cast::<PyDict>() {
        for (name, value) in entries.iter() {
            add(&name, &value)?;
        }
        return Ok(context);
    }
    let Ok(items) = value.getattr(intern!(value.py(), "items")) else {
        return Err(wrong_type(format!("a context must be a mapping, not {}", value.get_type().name()?)));
    };
    for item in items.call0()?.try_iter()? {
        let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item?.extract()?;
        add(&name, &value)?;
    }
    Ok(context)
}

/// A time argument: a `datetime` with a time zone.
pub struct Time(pub Timestamp);

impl<'py> FromPyObject<'_, 'py> for Time {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        static DATETIME: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let py = value.py();
        if !value.is_instance(DATETIME.import(py, "datetime", "datetime")?)? {
            let text = format!("a time must be a datetime, not {}", value.get_type().name()?);
            return Err(PyTypeError::new_err(text));
        }
        if value.call_method0(intern!(py, "utcoffset"))?.is_none() {
            return Err(invalid("a time needs a time zone, such as datetime.UTC").into());
        }
        let written = value.call_method0(intern!(py, "isoformat"))?;
        let time = text(&written, "a time")?.parse().map_err(Failure::Kms)?;
        Ok(Self(time))
    }
}

/// A value of an enumeration of the service, given by its name.
pub struct Named<T>(pub T);

/// An enumeration of the service whose values have names.
pub trait HasNames: Sized {
    /// The value with this name.
    fn of(name: &str) -> kms_lib::Result<Self>;
}

macro_rules! has_names {
    ($($kind:ident)+) => {
        $(impl HasNames for kms_lib::$kind {
            fn of(name: &str) -> kms_lib::Result<Self> {
                Self::parse(name)
            }
        })+
    };
}
has_names!(Action AuditContext CryptoProvider KeyPurpose KeyState KeyType Permission Role SignatureAlgorithm Status);

impl<'py, T: HasNames> FromPyObject<'_, 'py> for Named<T> {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(T::of(&text(&value, "the argument")?).map_err(Failure::Kms)?))
    }
}

/// The change of one field in an edit.
pub enum Edit<T> {
    /// The field is not changed.
    Keep,
    /// The field is replaced, or removed with None.
    Set(Option<T>),
}

impl<T> Edit<T> {
    /// The new value, if the field is changed.
    pub fn given(self) -> Option<Option<T>> {
        match self {
            Self::Keep => None,
            Self::Set(value) => Some(value),
        }
    }
}

impl<'a, 'py, T: FromPyObject<'a, 'py>> FromPyObject<'a, 'py> for Edit<T> {
    type Error = T::Error;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> Result<Self, T::Error> {
        if value.is(value.py().Ellipsis()) {
            return Ok(Self::Keep);
        }
        if value.is_none() { Ok(Self::Set(None)) } else { value.extract().map(|value| Self::Set(Some(value))) }
    }
}

/// A mapping as JSON.
pub struct Json(pub serde_json::Value);

impl<'py> FromPyObject<'_, 'py> for Json {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let as_is = [("ensure_ascii", false)].into_py_dict(value.py())?;
        let written = DUMPS.import(value.py(), "json", "dumps")?.call((value,), Some(&as_is))?;
        let read = serde_json::from_str(&text(&written, "JSON")?);
        read.map(Self).map_err(|e| invalid(format!("not JSON: {e}")).into())
    }
}

/// Makes the query for a page of a list.
pub fn paging(limit: usize, cursor: Option<Text>) -> Paging {
    let mut paging = Paging::new(limit);
    paging.cursor = optional(cursor);
    paging
}

/// Makes an actor with the properties of its request.
pub fn with_request(mut actor: Actor, source_ip: Option<Text>, request_id: Option<Text>) -> Outcome<Actor> {
    if let Some(address) = source_ip {
        let address: IpAddr = address.0.parse().map_err(|_| invalid("source_ip is not an IPv4 or IPv6 address"))?;
        actor = actor.with_source_ip(address);
    }
    if let Some(id) = request_id {
        actor = actor.with_request_id(&id.0)?;
    }
    Ok(actor)
}

/// A path argument: `str` or `os.PathLike`. Python represents bytes of a file name that are not UTF-8 as surrogates,
/// which are converted back to these bytes; other lone surrogates are refused.
pub struct Path(pub PathBuf);

impl<'py> FromPyObject<'_, 'py> for Path {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let refused = |error: PyErr| match error.is_instance_of::<PyUnicodeEncodeError>(value.py()) {
            true => invalid("a path contains lone surrogates that do not represent a byte of a file name").into(),
            false => error,
        };
        value.extract::<PathBuf>().map(Self).map_err(refused)
    }
}
