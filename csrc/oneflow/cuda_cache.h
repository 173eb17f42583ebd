// Files of compiled code in a folder that only its owner may write.
#pragma once

#include <string>

namespace mae {
namespace cuda {

// FNV-1a in 64 bits, as 16 hexadecimal digits. It finds damage, not an attack: who could write a
// false file is kept out by the folder's owner and mode.
std::string digest(const std::string& bytes);

class Cache {
 public:
  // An empty folder name is a cache that keeps nothing.
  explicit Cache(const std::string& folder) : folder_(folder) {}

  // The bytes that were kept under a key, or "" where there are none, or they are damaged, or
  // somebody else could have written them.
  std::string read(const std::string& key) const;

  // Replaces the file whole, or leaves it: a cache that can't be written is no reason to stop.
  void write(const std::string& key, const std::string& bytes) const;

 private:
  std::string path(const std::string& key) const { return folder_ + "/" + key + ".bin"; }
  bool make_folder() const;

  std::string folder_;
};

}  // namespace cuda
}  // namespace mae
