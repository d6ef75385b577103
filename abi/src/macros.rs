//! The two shapes every interface here repeats: an enum that keeps unknown values, and a call table that turns
//! registers into named fields and back.

/// A protocol enumeration that keeps values it does not know.
macro_rules! open_enum {
    ($(#[$meta:meta])* $vis:vis struct $name:ident($repr:ty) { $($(#[$vmeta:meta])* $variant:ident = $value:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, zerocopy::FromBytes, zerocopy::IntoBytes,
                 zerocopy::Immutable, zerocopy::KnownLayout)]
        #[repr(transparent)]
        $vis struct $name(pub $repr);

        impl $name {
            $($(#[$vmeta])* pub const $variant: Self = Self($value);)*

            /// The name the specification gives this value, if it has one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(value if value == Self::$variant.0 => Some(stringify!($variant)),)*
                    _ => None,
                }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, concat!(stringify!($name), "({:#x})"), self.0),
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Debug::fmt(self, f)
            }
        }
    };
}

/// A table of calls: one enum variant per function identifier, its fields in the order of the registers from X1.
macro_rules! call_table {
    (
        $(#[$meta:meta])* $vis:vis enum $name:ident<$count:literal> {
            $($(#[$vmeta:meta])* $variant:ident = $fid:literal $spec:literal {
                $($(#[$fmeta:meta])* $field:ident: $fty:ty,)*
            },)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$vmeta])* $variant { $($(#[$fmeta])* $field: $fty,)* },)*
            /// A function identifier this table does not hold, with every register kept as it came.
            Unknown {
                /// All registers, X0 first.
                regs: [u64; $count],
            },
        }

        impl $name {
            /// Every known function identifier with the specification's name of the call.
            pub const TABLE: &'static [(u64, &'static str)] = &[$(($fid, $spec),)*];

            /// Reads a call from its registers, X0 (the function identifier) first.
            #[must_use]
            pub fn from_regs(regs: &[u64; $count]) -> Self {
                #[allow(unused_mut, unused_variables, reason = "calls without arguments leave the reader untouched")]
                match regs[0] {
                    $($fid => {
                        let mut reader = crate::regs::RegReader::new(&regs[1..]);
                        Self::$variant { $($field: reader.read(),)* }
                    })*
                    _ => Self::Unknown { regs: *regs },
                }
            }

            /// Writes a call to its registers; registers the call does not use are zero (SMCCC "should be zero").
            #[must_use]
            pub fn to_regs(&self) -> [u64; $count] {
                let mut regs = [0; $count];
                match *self {
                    $(Self::$variant { $($field,)* } => {
                        regs[0] = $fid;
                        #[allow(unused_mut, unused_variables, reason = "calls without arguments write nothing")]
                        let mut writer = crate::regs::RegWriter::new(&mut regs[1..]);
                        $(writer.write($field);)*
                    })*
                    Self::Unknown { regs: kept } => regs = kept,
                }
                regs
            }

            /// The function identifier, X0.
            #[must_use]
            pub const fn fid(&self) -> u64 {
                match self {
                    $(Self::$variant { .. } => $fid,)*
                    Self::Unknown { regs } => regs[0],
                }
            }

            /// The specification's name of the call, `None` for an unknown one.
            #[must_use]
            pub const fn name(&self) -> Option<&'static str> {
                match self {
                    $(Self::$variant { .. } => Some($spec),)*
                    Self::Unknown { .. } => None,
                }
            }
        }
    };
}
pub(crate) use {call_table, open_enum};
