use sinew::AppError;

#[derive(AppError)]
pub union OrderError {
    a: u32,
}

fn main() {}
