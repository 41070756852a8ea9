target "default" {
  contexts = {
    base = "target:base"
    data = "cwd://data"
  }
  context = "https://example.com/repo.git#main:sub"
  call = "outline"
}

target "base" {
  contexts = {
    root = "target:root"
  }
  entitlements = ["security.insecure"]
  output = ["type=registry"]
  context = "cwd://base/"
}

target "root" {
  network = "host"
  resources = {
    memory = "1g"
    cpu-shares = 512
  }
  policy = [{ filename = "p.rego", strict = true }]
}
