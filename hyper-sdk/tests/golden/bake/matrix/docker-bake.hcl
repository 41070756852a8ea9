variable "VERSIONS" {
  default = ["1.21", "1.22"]
}

target "default" {
  name = "app-${kind.name}-${replace(version, ".", "-")}"
  matrix = {
    kind = [
      { name = "slim", base = "debian:slim" },
      { name = "alpine", base = "alpine" },
    ]
    version = VERSIONS
  }
  args = {
    BASE = kind.base
    VERSION = version
  }
  tags = concat(
    ["example.com/app:${version}-${kind.name}"],
    kind.name == "slim" ? ["example.com/app:${version}"] : [],
  )
  target = "final"
}

target "single" {
  matrix = {
    item = ["x"]
  }
  name = "one-${item}"
  contexts = {
    base = "target:app-slim-1-21"
  }
}
