// Atomics and fences. Memory is sequentially consistent here: a fence that is missing is not noticed.
#pragma once
#include <type_traits>

#include "block.h"

namespace sim {

template <class T, class Update>
inline T update_atomically(T* word, Update update) {
    T old, next;
    __atomic_load(word, &old, __ATOMIC_RELAXED);
    do next = update(old);
    while (!__atomic_compare_exchange(word, &old, &next, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return old;
}

template <class T>
struct Same { using type = T; };

}  // namespace sim

template <class T>
static inline T atomicAdd(T* word, typename sim::Same<T>::type value) {
    return sim::update_atomically(word, [=](T old) { return old + value; });
}
template <class T>
static inline T atomicSub(T* word, typename sim::Same<T>::type value) {
    return sim::update_atomically(word, [=](T old) { return old - value; });
}
template <class T>
static inline T atomicMax(T* word, typename sim::Same<T>::type value) {
    return sim::update_atomically(word, [=](T old) { return old > value ? old : value; });
}
template <class T>
static inline T atomicMin(T* word, typename sim::Same<T>::type value) {
    return sim::update_atomically(word, [=](T old) { return old < value ? old : value; });
}
template <class T>
static inline T atomicOr(T* word, typename sim::Same<T>::type value) {
    return sim::update_atomically(word, [=](T old) { return old | value; });
}
template <class T>
static inline T atomicAnd(T* word, typename sim::Same<T>::type value) {
    return sim::update_atomically(word, [=](T old) { return old & value; });
}
template <class T>
static inline T atomicExch(T* word, typename sim::Same<T>::type value) {
    return sim::update_atomically(word, [=](T) { return value; });
}
template <class T>
static inline T atomicCAS(T* word, typename sim::Same<T>::type expected, typename sim::Same<T>::type value) {
    return sim::update_atomically(word, [=](T old) { return old == expected ? value : old; });
}
static inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    sim::jitter();
}
static inline void __threadfence_block() { __threadfence(); }
static inline void __threadfence_system() { __threadfence(); }
static inline void __nanosleep(unsigned) { sim::spin(); }
