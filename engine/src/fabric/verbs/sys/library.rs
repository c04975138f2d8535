//! Loads libibverbs at run time, so that one binary runs with and without it.

use super::types::{
    ibv_async_event, ibv_comp_channel, ibv_context, ibv_cq, ibv_device, ibv_device_attr, ibv_mr, ibv_pd, ibv_port_attr,
    ibv_qp, ibv_qp_attr, ibv_qp_init_attr,
};
use super::{VerbsError, check};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// The soname. The interface has kept it since 2005.
const SONAME: &CStr = c"libibverbs.so.1";
const PACKAGES: &str =
    "install libibverbs1 and ibverbs-providers (Debian, Ubuntu), libibverbs (RHEL, Fedora) or rdma-core (SUSE, Arch)";

/// Why libibverbs cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("RDMA needs libibverbs, which cannot be loaded ({0}): {PACKAGES}")]
    Missing(String),
    #[error(
        "libibverbs lacks the function {symbol} (version {version}): it is older than rdma-core 28, or not the system's own; {PACKAGES}"
    )]
    Symbol { symbol: &'static str, version: &'static str },
}

/// Defines the table of functions.
///
/// Each function has the symbol version that a program linked against the library requests. So a later default version
/// cannot change which function is called.
macro_rules! functions {
    ($($version:literal { $(fn $name:ident($($argument:ty),*) $(-> $result:ty)?;)* })*) => {
        /// The functions, all of them present.
        pub(crate) struct Library {
            $($(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*)*
        }

        impl Library {
            fn bind(find: impl Fn(&CStr, &CStr) -> *mut c_void) -> Result<Library, LoadError> {
                $($(let $name = {
                    let address = find(symbol(concat!(stringify!($name), "\0")), symbol(concat!($version, "\0")));
                    if address.is_null() {
                        return Err(LoadError::Symbol { symbol: stringify!($name), version: $version });
                    }
                    // SAFETY: a function of libibverbs, under the version that has this signature in its header. Object
                    // and function pointers have the same size wherever there is a dlsym.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(address) }
                };)*)*
                Ok(Library { $($($name,)*)* })
            }
        }
    };
}

functions! {
    "IBVERBS_1.0" {
        fn ibv_create_comp_channel(*mut ibv_context) -> *mut ibv_comp_channel;
        fn ibv_destroy_comp_channel(*mut ibv_comp_channel) -> c_int;
    }
    "IBVERBS_1.1" {
        fn ibv_fork_init() -> c_int;
        fn ibv_get_device_list(*mut c_int) -> *mut *mut ibv_device;
        fn ibv_free_device_list(*mut *mut ibv_device);
        fn ibv_get_device_name(*mut ibv_device) -> *const c_char;
        fn ibv_open_device(*mut ibv_device) -> *mut ibv_context;
        fn ibv_close_device(*mut ibv_context) -> c_int;
        fn ibv_query_device(*mut ibv_context, *mut ibv_device_attr) -> c_int;
        fn ibv_query_port(*mut ibv_context, u8, *mut ibv_port_attr) -> c_int;
        fn ibv_get_async_event(*mut ibv_context, *mut ibv_async_event) -> c_int;
        fn ibv_ack_async_event(*mut ibv_async_event);
        fn ibv_alloc_pd(*mut ibv_context) -> *mut ibv_pd;
        fn ibv_dealloc_pd(*mut ibv_pd) -> c_int;
        fn ibv_reg_mr(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
        fn ibv_dereg_mr(*mut ibv_mr) -> c_int;
        fn ibv_create_cq(*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
        fn ibv_destroy_cq(*mut ibv_cq) -> c_int;
        fn ibv_get_cq_event(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
        fn ibv_ack_cq_events(*mut ibv_cq, c_uint);
        fn ibv_create_qp(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
        fn ibv_modify_qp(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
        fn ibv_query_qp(*mut ibv_qp, *mut ibv_qp_attr, c_int, *mut ibv_qp_init_attr) -> c_int;
        fn ibv_destroy_qp(*mut ibv_qp) -> c_int;
    }
}

/// Makes a C string of a text from the macro above, which ends each text with a zero.
fn symbol(text: &'static str) -> &'static CStr {
    CStr::from_bytes_until_nul(text.as_bytes()).unwrap_or_default()
}

impl Library {
    /// The library, loaded by the first call and never unloaded, since its providers keep threads and tables.
    pub(crate) fn get() -> Result<&'static Library, &'static LoadError> {
        static LIBRARY: OnceLock<Result<Library, LoadError>> = OnceLock::new();
        LIBRARY.get_or_init(Library::load).as_ref()
    }

    fn load() -> Result<Library, LoadError> {
        let handle = open(SONAME)?;
        let library = Library::bind(|name, version| find(handle, name, version))?;
        library.survive_forks();
        Ok(library)
    }

    /// Keeps registered memory valid if the application forks, if only to start another program.
    ///
    /// Before kernel 5.12 the pages that a device writes must not be shared with a child: the parent's next store would
    /// move the parent to a copy of the page, and the device would continue to write the old page. This call excludes
    /// registered memory (always whole maps of this process) from children. On a later kernel it does nothing. It must
    /// precede the first registration, so it is made here.
    fn survive_forks(&self) {
        // SAFETY: takes no argument, may be called at any time, and reports if it is too late.
        if let Err(e) = check("ibv_fork_init", unsafe { (self.ibv_fork_init)() }) {
            tracing::warn!("{e}: something in this process uses RDMA already; on kernels before 5.12 it must not fork");
        }
    }
}

fn open(soname: &CStr) -> Result<*mut c_void, LoadError> {
    // SAFETY: loads a library by its name; its constructors are those of libibverbs, which have no preconditions.
    let handle = unsafe { libc::dlopen(soname.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: the text of this thread's last failure, valid until its next dl call; it is copied at once.
    let reason = unsafe {
        let text = libc::dlerror();
        if text.is_null() { "dlopen failed".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    Err(LoadError::Missing(reason))
}

#[cfg(target_env = "gnu")]
fn find(handle: *mut c_void, name: &CStr, version: &CStr) -> *mut c_void {
    // SAFETY: the handle is never closed, and the strings end with a zero.
    unsafe { libc::dlvsym(handle, name.as_ptr(), version.as_ptr()) }
}

/// Other C libraries have no dlvsym. Their dlsym finds the default version, which is the requested one.
#[cfg(not(target_env = "gnu"))]
fn find(handle: *mut c_void, name: &CStr, _: &CStr) -> *mut c_void {
    // SAFETY: the handle is never closed, and the string ends with a zero.
    unsafe { libc::dlsym(handle, name.as_ptr()) }
}

/// The devices that the library found. A device can be opened only while its list is alive.
pub(crate) struct DeviceList {
    library: &'static Library,
    list: *mut *mut ibv_device,
    count: usize,
}

impl DeviceList {
    pub(crate) fn get(library: &'static Library) -> Result<DeviceList, VerbsError> {
        let mut count = 0;
        // SAFETY: writes the count to the given address.
        let list = unsafe { (library.ibv_get_device_list)(&raw mut count) };
        if list.is_null() {
            return Err(VerbsError::last("ibv_get_device_list"));
        }
        Ok(DeviceList { library, list, count: usize::try_from(count).unwrap_or(0) })
    }

    /// The names of the devices, as in /sys/class/infiniband.
    pub(crate) fn names(&self) -> Vec<String> {
        self.devices().map(|(name, _)| name).collect()
    }

    /// The device with this name.
    pub(super) fn find(&self, wanted: &str) -> Option<*mut ibv_device> {
        self.devices().find(|(name, _)| name == wanted).map(|(_, device)| device)
    }

    fn devices(&self) -> impl Iterator<Item = (String, *mut ibv_device)> {
        (0..self.count).map(|index| {
            // SAFETY: the list has `count` devices, which are valid as long as the list, and so are their names.
            unsafe {
                let device = *self.list.add(index);
                let name = CStr::from_ptr((self.library.ibv_get_device_name)(device));
                (name.to_string_lossy().into_owned(), device)
            }
        })
    }
}

impl Drop for DeviceList {
    fn drop(&mut self) {
        // SAFETY: made by ibv_get_device_list, and freed once.
        unsafe { (self.library.ibv_free_device_list)(self.list) };
    }
}

#[cfg(test)]
mod tests {
    use super::{Library, LoadError, open};

    #[test]
    fn a_missing_library_says_what_to_install() {
        let error = open(c"libibverbs.so.999").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("libibverbs.so.999") && text.contains("install libibverbs1 and ibverbs-providers"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_symbol_is_named() {
        let broken = Library::bind(|name, _| {
            let known = name.to_bytes() != b"ibv_modify_qp";
            if known { a_missing_symbol_is_named as fn() as *mut _ } else { std::ptr::null_mut() }
        });
        let error = broken.err().unwrap();
        assert_eq!(error, LoadError::Symbol { symbol: "ibv_modify_qp", version: "IBVERBS_1.1" });
        assert!(error.to_string().contains("ibv_modify_qp"), "{error}");
    }
}
