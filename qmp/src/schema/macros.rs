//! The declarations.

/// Declares an object type: a Rust struct and its form on the wire, name for name.
///
/// Every member has a doc comment and the name under which it crosses the wire, with an alias where old clients use
/// another one. A member whose type is an `Option` may be absent.
#[macro_export]
macro_rules! structure {
    (
        $(#[doc = $documentation:literal])+
        $(#[derive($($derived:ident),*)])?
        $visibility:vis struct $name:ident {
            $(
                $(#[doc = $member_documentation:literal])+
                $wire:literal $(| $alias:literal)? => $member:ident: $kind:ty,
            )*
        }
    ) => {
        $(#[doc = $documentation])+
        $(#[derive($($derived),*)])?
        $visibility struct $name {
            $(
                $(#[doc = $member_documentation])+
                $visibility $member: $kind,
            )*
        }

        impl $crate::schema::Wire for $name {
            const TYPE: &'static $crate::schema::Type = &$crate::schema::Type::Structure(&$crate::schema::Structure {
                name: stringify!($name),
                documentation: concat!($($documentation, "\n"),+),
                members: &[$($crate::schema::Member {
                    name: $wire,
                    alias: $crate::structure!(@alias $($alias)?),
                    documentation: concat!($($member_documentation, "\n"),+),
                    kind: <$kind as $crate::schema::Wire>::TYPE,
                    optional: <$kind as $crate::schema::Wire>::OPTIONAL,
                }),*],
            });

            fn from_wire(
                value: serde_json::Value,
                location: &$crate::schema::Location<'_>,
            ) -> Result<Self, $crate::error::Error> {
                let mut members = $crate::schema::Members::open(value, location)?;
                $(let $member = members.take($wire, $crate::structure!(@alias $($alias)?))?;)*
                members.close()?;
                Ok($name { $($member),* })
            }

            fn to_wire(&self) -> serde_json::Value {
                let mut members = serde_json::Map::new();
                $(if let Some(value) = $crate::schema::Wire::to_member(&self.$member) {
                    members.insert($wire.into(), value);
                })*
                serde_json::Value::Object(members)
            }
        }
    };
    (@alias) => { None };
    (@alias $alias:literal) => { Some($alias) };
}

/// Declares an enumeration: a Rust enum and the strings that stand for its values on the wire.
#[macro_export]
macro_rules! enumeration {
    (
        $(#[doc = $documentation:literal])+
        $visibility:vis enum $name:ident {
            $(
                $(#[doc = $value_documentation:literal])+
                $wire:literal => $value:ident,
            )+
        }
    ) => {
        $(#[doc = $documentation])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name {
            $(
                $(#[doc = $value_documentation])+
                $value,
            )+
        }

        impl $name {
            const VALUES: &'static [($name, &'static str)] = &[$(($name::$value, $wire)),+];
            const WIRE: &'static [(&'static str, &'static str)] =
                &[$(($wire, concat!($($value_documentation, "\n"),+))),+];

            /// Its name on the wire.
            $visibility fn name(self) -> &'static str {
                match self {
                    $($name::$value => $wire,)+
                }
            }
        }

        impl $crate::schema::Wire for $name {
            const TYPE: &'static $crate::schema::Type =
                &$crate::schema::Type::Enumeration(&$crate::schema::Enumeration {
                    name: stringify!($name),
                    documentation: concat!($($documentation, "\n"),+),
                    values: Self::WIRE,
                });

            fn from_wire(
                value: serde_json::Value,
                location: &$crate::schema::Location<'_>,
            ) -> Result<Self, $crate::error::Error> {
                let index = $crate::schema::enumeration_index(&value, Self::WIRE, location)?;
                Ok(Self::VALUES[index].0)
            }

            fn to_wire(&self) -> serde_json::Value {
                self.name().into()
            }
        }
    };
}
