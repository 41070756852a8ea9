target "app" {
  args = { B = "2" }
  labels = { l = "v" }
}

target "other" {
  inherits = ["app"]
  args = { SELF = target.app.args.B }
}
