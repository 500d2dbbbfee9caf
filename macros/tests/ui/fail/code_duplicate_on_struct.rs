use sinew::AppError;

#[derive(Debug, serde::Serialize, serde::Deserialize, AppError)]
#[rpc(code = NotFound, code = Aborted)]
pub struct Missing;

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("missing")
    }
}

fn main() {}
