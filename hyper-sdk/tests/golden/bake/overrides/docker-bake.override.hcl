variable "EXTRA" {
  default = "none"
}

target "a" {
  tags = ["a:2", "a:${EXTRA}"]
}
