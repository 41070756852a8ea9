group "default" {
  targets = ["a", "b"]
}

target "a" {
  tags = ["a:1"]
  cache-from = ["type=local,src=c"]
  output = ["type=docker"]
}

target "b" {
  inherits = ["a"]
  secret = ["id=s,src=f"]
  args = { X = "b" }
}
