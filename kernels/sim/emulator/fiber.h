// Switching between stacks of one thread of the host: each thread of a kernel has a stack of its own.
#pragma once
#include <cstdint>
#include <cstring>

namespace sim {

constexpr size_t STACK_BYTES = 64 << 10;

// Saves the callee's registers on the present stack, `*save` = its top, and goes on where `to` was saved.
extern "C" void quire_sim_switch(void** save, void* to);

#if defined(__x86_64__)
asm(R"(.weak quire_sim_switch
.type quire_sim_switch,@function
quire_sim_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
.size quire_sim_switch,.-quire_sim_switch
)");

// A stack that begins with `entry` when it is switched to.
inline void* fresh_stack(unsigned char* top, void (*entry)()) {
    void** stack = (void**)((uintptr_t)top & ~(uintptr_t)63);
    *--stack = nullptr;
    *--stack = (void*)entry;
    for (int i = 0; i < 6; i++) *--stack = nullptr;
    return stack;
}

#elif defined(__aarch64__)
asm(R"(.weak quire_sim_switch
.type quire_sim_switch,%function
quire_sim_switch:
 sub sp,sp,#176
 stp x19,x20,[sp]
 stp x21,x22,[sp,#16]
 stp x23,x24,[sp,#32]
 stp x25,x26,[sp,#48]
 stp x27,x28,[sp,#64]
 stp x29,x30,[sp,#80]
 stp d8,d9,[sp,#96]
 stp d10,d11,[sp,#112]
 stp d12,d13,[sp,#128]
 stp d14,d15,[sp,#144]
 mov x9,sp
 str x9,[x0]
 mov sp,x1
 ldp x19,x20,[sp]
 ldp x21,x22,[sp,#16]
 ldp x23,x24,[sp,#32]
 ldp x25,x26,[sp,#48]
 ldp x27,x28,[sp,#64]
 ldp x29,x30,[sp,#80]
 ldp d8,d9,[sp,#96]
 ldp d10,d11,[sp,#112]
 ldp d12,d13,[sp,#128]
 ldp d14,d15,[sp,#144]
 add sp,sp,#176
 ret
.size quire_sim_switch,.-quire_sim_switch
)");

inline void* fresh_stack(unsigned char* top, void (*entry)()) {
    uint64_t* stack = (uint64_t*)(((uintptr_t)top & ~(uintptr_t)63) - 176);
    memset(stack, 0, 176);
    stack[11] = (uint64_t)entry;
    return stack;
}
#else
#error "the emulator has no context switch for this processor"
#endif

}  // namespace sim
