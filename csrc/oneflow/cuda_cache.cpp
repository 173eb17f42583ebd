#include "cuda_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace mae {
namespace cuda {
namespace {

const char kMagic[] = "mae-cuda 1 ";  // then the digest, a line break and the bytes

// Owned by this user, or by root, who installed it for all; and written by no other.
bool is_safe(const struct stat& status) {
  const bool own = status.st_uid == geteuid() || status.st_uid == 0;
  return own && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

bool folder_is_safe(const std::string& folder) {
  struct stat status;
  return lstat(folder.c_str(), &status) == 0 && S_ISDIR(status.st_mode) && is_safe(status);
}

std::string read_safe_file(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return "";
  struct stat status;
  std::string bytes;
  if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && is_safe(status)) {
    bytes.resize(status.st_size);
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = read(file, &bytes[done], bytes.size() - done);
      if (n <= 0 && !(n < 0 && errno == EINTR)) break;
      if (n > 0) done += n;
    }
    bytes.resize(done);
  }
  close(file);
  return bytes;
}

bool write_all(int file, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = write(file, &bytes[done], bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += n;
  }
  return true;
}

}  // namespace

std::string digest(const std::string& bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3u;
  char text[17];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::string Cache::read(const std::string& key) const {
  if (folder_.empty() || !folder_is_safe(folder_)) return "";
  const std::string file = read_safe_file(path(key));
  const size_t magic = sizeof kMagic - 1, start = magic + 16 + 1;
  if (file.size() <= start || file.compare(0, magic, kMagic) != 0) return "";
  const std::string bytes = file.substr(start);
  return file.compare(magic, 16, digest(bytes)) == 0 ? bytes : "";
}

bool Cache::make_folder() const {
  return mkdir(folder_.c_str(), 0755) == 0 || errno == EEXIST;
}

void Cache::write(const std::string& key, const std::string& bytes) const {
  if (folder_.empty() || !make_folder() || !folder_is_safe(folder_)) return;
  std::string part = path(key) + ".XXXXXX";
  const int file = mkstemp(&part[0]);
  if (file < 0) return;
  const bool written = write_all(file, kMagic + digest(bytes) + "\n" + bytes) &&
                       fchmod(file, 0644) == 0 && fsync(file) == 0;
  const bool closed = close(file) == 0;
  if (!written || !closed || rename(part.c_str(), path(key).c_str()) != 0) unlink(part.c_str());
}

}  // namespace cuda
}  // namespace mae
