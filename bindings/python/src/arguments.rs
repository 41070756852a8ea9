//! Arguments that have more than one form in Python: one value or a sequence of them, and any mapping.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyMapping, PySequence, PyString};
use std::collections::BTreeMap;

/// One value or a sequence of them. A `str` is one value, never a sequence of letters.
#[derive(Default)]
pub(crate) struct Several<V>(pub(crate) Vec<V>);

impl<'py, V> FromPyObject<'_, 'py> for Several<V>
where
    V: for<'a> FromPyObject<'a, 'py>,
{
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.cast::<PyString>().is_err()
            && let Ok(sequence) = object.cast::<PySequence>()
        {
            let mut values = Vec::new();
            for item in sequence.try_iter()? {
                values.push(item?.extract::<V>().map_err(Into::into)?);
            }
            return Ok(Self(values));
        }
        let one = object.to_owned();
        one.extract::<V>().map(|one| Self(vec![one])).map_err(Into::into)
    }
}

/// Any mapping with texts as keys, not only a `dict`.
pub(crate) struct Table<V>(pub(crate) BTreeMap<String, V>);

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'py, V> FromPyObject<'_, 'py> for Table<V>
where
    V: for<'a> FromPyObject<'a, 'py>,
{
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let Ok(mapping) = object.cast::<PyMapping>() else {
            let kind = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!("expected a mapping such as a dict, not `{kind}`")));
        };
        let mut values = BTreeMap::new();
        for item in mapping.items()?.iter() {
            let (key, value) = item.extract::<(String, Bound<'py, PyAny>)>()?;
            let value = value.extract::<V>().map_err(|e| {
                let e: PyErr = e.into();
                PyTypeError::new_err(format!("`{key}`: {}", e.value(object.py())))
            })?;
            values.insert(key, value);
        }
        Ok(Self(values))
    }
}
