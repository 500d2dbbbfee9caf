//! Types named like those of the prelude, and like type parameters of generated code.

#![allow(dead_code)]

use sinew::service;

macro_rules! named {
    ($($name:ident)*) => {
        $(
            #[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
            pub struct $name;
        )*
    };
}

mod shadow {
    named!(Option Vec String Send Sync Box Future S N T E Ok Err Some None Default Clone Arc Self_);

    pub trait Copy {}
    pub trait Sized {}

    #[sinew::service(dyn, mock)]
    pub trait Orders {
        async fn get(&self, a: Option, b: Vec, c: String, d: Send, e: Box) -> S;
        async fn more(&self, a: &N, b: T, c: E, d: Future, e: Arc) -> Default;
        async fn even(&self, a: Ok, b: Err, c: Some, d: None, e: Clone) -> Sync;
    }

    pub mod result {
        named!(Result);
    }

    #[sinew::service(name = "Takes", transparent)]
    pub trait Takes {
        async fn take(&self, result: result::Result) -> core::result::Result<S, sinew::Status>;
    }
}

#[service]
pub trait Outside {
    async fn get(&self, a: shadow::Option) -> shadow::S;
}

fn main() {}
