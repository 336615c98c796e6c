// How adversarial a run is: in which order threads run, and how late asynchronous work takes effect.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace sim {

enum Order { FORWARD, REVERSE, RANDOM };

struct Settings {
    Order order = FORWARD;
    uint64_t seed = 1;
    // Copies and matrix products take effect when a kernel waits for them; otherwise at once.
    bool lazy = true;
};

// EMULATOR=<forward|reverse|seed>,<lazy|eager> for whole processes; tests set it between launches.
inline Settings settings_of(const char* text) {
    Settings settings;
    if (!text) return settings;
    if (!strncmp(text, "reverse", 7)) settings.order = REVERSE;
    if (*text >= '0' && *text <= '9') {
        settings.order = RANDOM;
        settings.seed = strtoull(text, nullptr, 10) | 1;
    }
    settings.lazy = !strstr(text, "eager");
    return settings;
}

inline Settings& settings() {
    static Settings settings = settings_of(getenv("EMULATOR"));
    return settings;
}

// xorshift64
inline uint64_t next_random(uint64_t& state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

}  // namespace sim
