group "default" {
  description = "what is shipped"
  targets = ["app", "tools"]
}

group "tools" {
  targets = ["lint", "docs"]
}

target "_common" {
  args = {
    GO = "1.24"
    MODE = "release"
    UNSET = null
  }
  labels = {
    "org.example.price" = "$${5}"
  }
  annotations = ["index:org.example.a=1"]
  cache-from = ["example.com/cache:a", "type=gha,scope=x"]
  ulimits = ["nofile=1024:2048"]
}

target "_platforms" {
  platforms = ["linux/amd64", "linux/arm64"]
  secret = ["id=token,env=TOKEN", "type=file,id=key,src=key.pem"]
  ssh = ["default"]
}

target "app" {
  inherits = ["_common", "_platforms"]
  context = "./src/../app/"
  dockerfile = "build/Dockerfile"
  args = {
    MODE = "debug"
  }
  tags = ["example.com/app:1", "example.com/app:1", ""]
  cache-to = ["type=registry,ref=example.com/cache:app,mode=max"]
  output = ["type=image,push=true", "out"]
  annotations = ["manifest:org.example.b=2"]
  attest = ["type=provenance,mode=max", { type = "sbom", disabled = true }]
  extra-hosts = {
    db = "10.0.0.1"
  }
  shm-size = "64m"
  network = "host"
}

target "lint" {
  inherits = ["_common"]
  target = "lint"
  output = ["type=cacheonly"]
  no-cache-filter = ["lint"]
  pull = true
  no-cache = false
}

target "docs" {
  dockerfile-inline = <<-EOT
    FROM scratch
      COPY docs /$${name}
    EOT
  contexts = {
    src = "target:lint"
    img = "docker-image://alpine:3"
    none = ""
  }
  description = "the pages"
}
