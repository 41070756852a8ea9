function "tag" {
  params = [name]
  variadic_params = more
  result = join("-", concat([REGISTRY, name], more))
}

function "plus" {
  params = [n]
  result = "${n + OFFSET}"
}

variable "REGISTRY" {
  default = "example.com"
}

variable "OFFSET" {
  default = 1
}

variable "FLAGS" {
  type = map(string)
  default = { a = "1", b = "2" }
}

PREFIX = "v${plus(2)}"

target "default" {
  args = {
    TAG = tag("app", "x", PREFIX)
    UPPER = join(",", [for k, v in FLAGS : "${upper(k)}=${v}" if v != "3"])
    JSON = jsonencode({ for k, v in FLAGS : k => [v, true, null] })
    REGEX = regex("[0-9]+", "abc42def")
    TRY = try(target.none.tags[0], "fallback")
    SEMVER = semvercmp("1.5.0", "^1.2") ? "new" : "old"
    FORMAT = format("%05.1f|%-4s|%q", 3.14159, "ab", "c")
    SPLAT = join("+", [{ n = "a" }, { n = "b" }][*].n)
    LOOP = "%{ for x in ["p", "q"] }<${x}>%{ endfor }"
    STRIP = "a ${~ "b" ~} c"
    HEREDOC = <<EOT
line ${OFFSET}
EOT
    NUMBER = 1.50
    BOOL = !true || OFFSET > 0
    SHA = substr(sha256("x"), 0, 8)
  }
}
