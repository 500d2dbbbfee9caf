//! A service whose tokens come from another macro.

use sinew::{Cx, Next, Outcome, interceptor, service};

macro_rules! make {
    ($name:ident, $method:ident, $ty:ty, $handler:ident) => {
        #[interceptor]
        async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
            next.run(cx).await
        }

        #[service(dyn, mock)]
        pub trait $name {
            async fn $method(&self, value: $ty, other: &$ty) -> Option<$ty>;
            async fn fixed(&self, value: $ty) -> $ty {
                value
            }
        }

        pub struct $handler {
            audit: audit,
        }

        #[service]
        #[interceptor(self.audit, audit)]
        impl $name for $handler {
            async fn $method(&self, value: $ty, _: &$ty) -> Option<$ty> {
                Some(value)
            }
        }

        async fn run() {
            let handler = $handler { audit };
            let _ = handler;
        }
    };
}

make!(Orders, get, u64, Shop);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    run().await;
    let orders = OrdersClient::local(Shop { audit });
    assert_eq!(orders.get(1, &2).await.unwrap(), Some(1));
}
